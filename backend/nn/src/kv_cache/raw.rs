//! Keys and values of one sequence in host memory, for decoding paths that stay there.

/// For each position and head the key, then the value: `[S, G, 2, D]`.
#[derive(Debug, Clone)]
pub struct RawInterleavedKvCache {
    held: Vec<f32>,
    heads: usize,
    width: usize,
}

impl RawInterleavedKvCache {
    /// An empty cache with room for `max_seq` positions, which grows beyond it.
    pub fn new(h_kv: usize, d: usize, max_seq: usize) -> Self {
        Self { held: Vec::with_capacity(max_seq * h_kv * 2 * d), heads: h_kv, width: d }
    }

    /// Positions that are held.
    pub fn len(&self) -> usize {
        self.held.len().checked_div(self.heads * 2 * self.width).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Appends one position, keys and values `[G, D]`.
    pub fn write_kv(&mut self, k_flat: &[f32], v_flat: &[f32]) {
        let heads = k_flat.chunks(self.width).zip(v_flat.chunks(self.width));
        heads.take(self.heads).for_each(|(key, value)| self.held.extend(key.iter().chain(value)));
    }

    /// Appends `seq_len` positions, keys and values `[S, G, D]`.
    pub fn write_kv_batch(&mut self, k_flat: &[f32], v_flat: &[f32], seq_len: usize) {
        let row = self.heads * self.width;
        let rows = k_flat.chunks(row).zip(v_flat.chunks(row));
        rows.take(seq_len).for_each(|(keys, values)| self.write_kv(keys, values));
    }

    /// Everything that is held.
    pub fn data(&self) -> &[f32] {
        &self.held
    }

    /// Empties the cache and keeps its memory.
    pub fn reset(&mut self) {
        self.held.clear();
    }

    pub fn h_kv(&self) -> usize {
        self.heads
    }

    pub fn d(&self) -> usize {
        self.width
    }
}

/// Rotates the pairs `(x[2i], x[2i + 1])` of each of `num_heads` rows of `d` elements by one position's angles.
pub fn rope_i_inplace(data: &mut [f32], cos: &[f32], sin: &[f32], num_heads: usize, d: usize) {
    for row in data.chunks_mut(d).take(num_heads) {
        for (pair, (cos, sin)) in row.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
        }
    }
}
