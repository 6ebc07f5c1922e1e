//! The product of [`super::plain`], written once over the vector operations of a file.

/// A form of the tile product for the instructions `$features`. The file that calls it has in scope, for a register of `LANES`
/// rows: `load`, `low`, `high`, `fifth`, `upper`, `dot`, `zero_of`, `splat`, `splat_f32`, `to_f32`, `mul`, `fma`, `halves`, `unsigned`,
/// `signed` and `store`.
macro_rules! tile_form {
    ($features:literal) => {
        /// Lines between what is computed and what is asked of memory.
        const AHEAD: usize = 40;

        #[target_feature(enable = $features)]
        pub fn tile<L: Layout, const M: usize>(
            part: &Part,
            tile: usize,
            x: &Activations,
            first: usize,
        ) -> [[f32; ROWS]; M] {
            let mut out = [[0f32; ROWS]; M];
            for side in 0..ROWS / LANES {
                let sums = side_of::<L, M>(part.lines(tile), part.scales(tile), x, first, side);
                for (out, sum) in out.iter_mut().zip(sums) {
                    store(sum, &mut out[side * LANES..(side + 1) * LANES]);
                }
            }
            out
        }

        /// The product for the rows `side·LANES..` of a tile.
        #[inline]
        #[target_feature(enable = $features)]
        fn side_of<L: Layout, const M: usize>(
            lines: &[Line],
            scales: &[u8],
            x: &Activations,
            first: usize,
            side: usize,
        ) -> [F32; M] {
            let format = const { L::FORMAT };
            let split = const { matches!(L::FORMAT.scaling(), Scaling::SuperScale) };
            let minimum = const { matches!(L::FORMAT.scaling(), Scaling::ScaleMin | Scaling::SuperScaleMin) };
            let rows: [&[Group]; M] = std::array::from_fn(|m| x.row(first + m));
            let mut totals = [splat_f32(0.0); M];
            let records = scales.chunks_exact(const { record(L::FORMAT) });
            let mut at = 0;
            for (lines, record) in lines.chunks_exact(const { L::FORMAT.bits() * L::FORMAT.groups() }).zip(records) {
                for (group, lines) in lines.chunks_exact(const { L::FORMAT.bits() }).enumerate() {
                    let x: [&Group; M] = std::array::from_fn(|m| &rows[m][at]);
                    at += 1;
                    for line in 0..lines.len() {
                        // Some hundred nanoseconds ahead; the hardware's own look-ahead ends at a page.
                        _mm_prefetch::<_MM_HINT_T0>(lines.as_ptr().wrapping_add(line + AHEAD).cast());
                    }
                    let zero = zero_of(format);
                    let mut sums: [[I32; 2]; M] = std::array::from_fn(|m| match (zero, split) {
                        (0, _) => [splat(0); 2],
                        (_, true) => x[m].sums.map(|sum| splat(-zero * sum)),
                        (_, false) => [splat(-zero * (x[m].sums[0] + x[m].sums[1])), splat(0)],
                    });
                    for j in 0..8 {
                        let weights = integers(format, lines, j, side);
                        for m in 0..M {
                            let sum = &mut sums[m][j / 4];
                            *sum = dot(format, *sum, weights, splat(x[m].words[j] as i32));
                        }
                    }
                    let (factor, second) = factors(format, record, group, side);
                    for m in 0..M {
                        let scale = splat_f32(x[m].scale);
                        if split {
                            totals[m] = fma(to_f32(sums[m][0]), mul(factor, scale), totals[m]);
                            totals[m] = fma(to_f32(sums[m][1]), mul(second, scale), totals[m]);
                        } else {
                            let sum = add(sums[m][0], sums[m][1]);
                            totals[m] = fma(to_f32(sum), mul(factor, scale), totals[m]);
                        }
                        if minimum {
                            totals[m] = fma(second, splat_f32(x[m].sum), totals[m]);
                        }
                    }
                }
            }
            totals
        }

        /// Columns `4j..4j+4` of a group, unsigned bytes.
        #[inline]
        #[target_feature(enable = $features)]
        fn integers(format: Format, lines: &[Line], j: usize, side: usize) -> I32 {
            if format.bits() == 8 {
                return load(&lines[j], side);
            }
            let both = load(&lines[j % 4], side);
            let bits = if j < 4 { low(both) } else { high(both) };
            match format.bits() {
                5 => or(bits, fifth(load(&lines[4], side), j)),
                6 => or(bits, upper(load(&lines[4 + j / 4], side), j % 4)),
                _ => bits,
            }
        }

        /// The group's factor, and its minimum or the factor of its second half.
        #[inline]
        #[target_feature(enable = $features)]
        fn factors(format: Format, record: &[u8], group: usize, side: usize) -> (F32, F32) {
            let lanes = |at: usize, width: usize| &record[at + side * LANES * width..][..LANES * width];
            let small = small_at(format, group);
            let d = halves(lanes(0, 2));
            match format.scaling() {
                Scaling::Scale => (d, d),
                Scaling::ScaleMin => (d, halves(lanes(2 * ROWS, 2))),
                Scaling::SuperScaleMin => {
                    let minima = mul(halves(lanes(2 * ROWS, 2)), splat_f32(-1.0));
                    (mul(d, unsigned(lanes(small, 1))), mul(minima, unsigned(lanes(small + ROWS, 1))))
                }
                Scaling::SuperScale => (mul(d, signed(lanes(small, 1))), mul(d, signed(lanes(small + ROWS, 1)))),
            }
        }
    };
}
pub(super) use tile_form;
