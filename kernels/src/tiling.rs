//! Structs that a host computes and a kernel reads.

/// Defines a tiling struct of 4-byte fields as its `<op>_tiling.h` has it, with `bytes` for device memory and `FIELDS`
/// for the test that holds the two against each other.
#[macro_export]
macro_rules! tiling {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $kind,)* }

        impl $name {
            pub const FIELDS: &[(&str, &str)] = &[$((stringify!($field), stringify!($kind)),)*];

            /// The struct as it lies in device memory.
            pub fn bytes(&self) -> Vec<u8> {
                $(const { assert!(size_of::<$kind>() == 4, "a field of a tiling has 4 bytes") };)*
                let mut bytes = Vec::with_capacity(size_of::<Self>());
                $(bytes.extend_from_slice(&self.$field.to_le_bytes());)*
                bytes
            }
        }
    };
}
