//! ggml's block formats: what a block holds and where.
//!
//! The layouts are facts of the GGUF format. Every format is read as groups of 32 columns whose integers are unsigned, and
//! a rule that makes numbers of them ([`Scaling`]); nothing else in this module knows a format by name.

/// Columns that share an integer sum: the block of the simple formats, an eighth of a K-format's.
pub const GROUP: usize = 32;

/// A block format of ggml.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// How the integers `q` of a block become numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// `d·(q − zero)`, `d` for 32 columns.
    Scale,
    /// `d·q + m`, both for 32 columns.
    ScaleMin,
    /// `d·s·q − e·m`: `d` and `e` for 256 columns, the integers `s` and `m` for 32.
    SuperScaleMin,
    /// `d·s·(q − zero)`: `d` for 256 columns, the signed integer `s` for 16.
    SuperScale,
}

impl Format {
    pub const ALL: [Self; 8] =
        [Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// Columns of a block, bytes of a block, bits of an integer, the integer that means zero, and the rule.
    const fn row(self) -> (usize, usize, usize, i32, Scaling) {
        match self {
            Self::Q4_0 => (32, 18, 4, 8, Scaling::Scale),
            Self::Q4_1 => (32, 20, 4, 0, Scaling::ScaleMin),
            Self::Q5_0 => (32, 22, 5, 16, Scaling::Scale),
            Self::Q5_1 => (32, 24, 5, 0, Scaling::ScaleMin),
            Self::Q8_0 => (32, 34, 8, 128, Scaling::Scale),
            Self::Q4K => (256, 144, 4, 0, Scaling::SuperScaleMin),
            Self::Q5K => (256, 176, 5, 0, Scaling::SuperScaleMin),
            Self::Q6K => (256, 210, 6, 32, Scaling::SuperScale),
        }
    }

    /// Columns of a block; the width of a matrix is a multiple of it.
    pub const fn block(self) -> usize {
        self.row().0
    }

    /// Bytes of a block as stored.
    pub const fn bytes(self) -> usize {
        self.row().1
    }

    /// Bits of an integer.
    pub const fn bits(self) -> usize {
        self.row().2
    }

    /// The integer that stands for zero, where the rule has no minimum.
    pub const fn zero(self) -> i32 {
        self.row().3
    }

    pub const fn scaling(self) -> Scaling {
        self.row().4
    }

    /// Groups of a block.
    pub const fn groups(self) -> usize {
        self.block() / GROUP
    }

    /// The integers of group `group` of a stored block.
    pub(super) fn integers(self, block: &[u8], group: usize) -> [u8; GROUP] {
        match self {
            Self::Q4_0 => nibbles(&block[2..]),
            Self::Q4_1 => nibbles(&block[4..]),
            Self::Q5_0 => with_bits(nibbles(&block[6..]), &block[2..]),
            Self::Q5_1 => with_bits(nibbles(&block[8..]), &block[4..]),
            // Signed bytes; flipping the sign bit adds 128.
            Self::Q8_0 => std::array::from_fn(|i| block[2 + i] ^ 0x80),
            Self::Q4K => shifted(&block[16 + group / 2 * 32..], group % 2 * 4),
            Self::Q5K => {
                let (high, low) = (&block[16..48], shifted(&block[48 + group / 2 * 32..], group % 2 * 4));
                std::array::from_fn(|i| low[i] | (high[i] >> group & 1) << 4)
            }
            Self::Q6K => {
                // Two halves of 128 columns; in each, four groups share 64 bytes of low bits and 32 of high ones.
                let (half, quarter) = (group / 4, group % 4);
                let low = shifted(&block[64 * half + 32 * (quarter % 2)..], quarter / 2 * 4);
                let high = &block[128 + 32 * half..];
                std::array::from_fn(|i| low[i] | (high[i] >> (2 * quarter) & 3) << 4)
            }
        }
    }

    /// The block's scale, and where the rule has one its minimum (or the scale of the minima), as bits of F16.
    pub(super) fn scales(self, block: &[u8]) -> (u16, u16) {
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        match self.scaling() {
            Scaling::Scale => (half(0), 0),
            Scaling::ScaleMin | Scaling::SuperScaleMin => (half(0), half(2)),
            Scaling::SuperScale => (half(208), 0),
        }
    }

    /// The two small integers of group `group` of a K-format's block: scale and minimum, or the scales of both halves.
    pub(super) fn small(self, block: &[u8], group: usize) -> (u8, u8) {
        if self.scaling() == Scaling::SuperScale {
            return (block[192 + 2 * group], block[193 + 2 * group]);
        }
        // Twelve bytes hold eight pairs of six bits: the first four pairs in the low bits of bytes 0 to 7, the others in the
        // halves of bytes 8 to 11 with their upper two bits on top of bytes 0 to 7.
        let packed = &block[4..16];
        match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => {
                (packed[group + 4] & 15 | packed[group - 4] >> 6 << 4, packed[group + 4] >> 4 | packed[group] >> 6 << 4)
            }
        }
    }
}

/// 32 integers of four bits in 16 bytes: the low halves first, then the high ones.
fn nibbles(bytes: &[u8]) -> [u8; GROUP] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// Adds a fifth bit, 32 of which lie in four bytes.
fn with_bits(low: [u8; GROUP], bits: &[u8]) -> [u8; GROUP] {
    std::array::from_fn(|i| low[i] | (bits[i / 8] >> (i % 8) & 1) << 4)
}

/// One half of each of 32 bytes.
fn shifted(bytes: &[u8], shift: usize) -> [u8; GROUP] {
    std::array::from_fn(|i| bytes[i] >> shift & 15)
}
