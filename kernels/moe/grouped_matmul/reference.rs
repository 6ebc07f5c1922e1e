//! grouped_matmul by plain loops in F64.

/// `y[r][c] = Σ x[r][k] · weight[expert of r][c][k]`; rows that belong to no group are zero.
pub fn grouped_matmul(x: &[f64], weight: &[f64], ends: &[i64], [inner, columns]: [usize; 2]) -> Vec<f64> {
    let mut y = vec![0.0; x.len() / inner * columns];
    let mut first = 0;
    for (expert, &end) in ends.iter().enumerate() {
        for row in first..(end as usize).max(first) {
            for column in 0..columns {
                let matrix = &weight[(expert * columns + column) * inner..][..inner];
                y[row * columns + column] = x[row * inner..][..inner].iter().zip(matrix).map(|(a, b)| a * b).sum();
            }
        }
        first = first.max(end as usize);
    }
    y
}

/// The same with SwiGLU: an expert's matrix is gate above up, `columns` rows each.
pub fn grouped_matmul_swiglu(x: &[f64], weight: &[f64], ends: &[i64], [inner, columns]: [usize; 2]) -> Vec<f64> {
    let both = grouped_matmul(x, weight, ends, [inner, 2 * columns]);
    let halves = both.chunks(2 * columns).map(|row| row.split_at(columns));
    halves.flat_map(|(gate, up)| gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u)).collect()
}
