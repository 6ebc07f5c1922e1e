//! Resolving symbols: the libraries, where a symbol's address comes from, and the lazily filled function tables.

use crate::aclnn::kind;
use crate::enums::*;
use crate::types::*;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

/// A library of CANN that functions are declared to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
pub enum Library {
    /// `libascendcl.so`: the runtime.
    ascendcl,
    /// `libnnopbase.so`: tensors, scalars, arrays and executors of aclnn.
    nnopbase,
    /// `libmsprofiler.so`: profiling.
    msprofiler,
    /// Mathematical operators: `libopapi_math.so` in CANN 9, `libopapi.so` in CANN 8.
    math,
    /// Neural-network operators: `libopapi_nn.so` in CANN 9, `libopapi.so` in CANN 8.
    nn,
    /// Transformer operators: `libopapi_transformer.so` in CANN 9, `libopapi.so` in CANN 8.
    transformer,
    /// `libhccl.so`: collectives.
    hccl,
}

/// Where the addresses of symbols come from: the installed CANN, or the simulated one that is linked into the program.
pub trait SymbolSource: Send + Sync {
    /// Address of `name`, looked up in the files that hold `library` in this release.
    fn address(&self, library: Library, name: &CStr) -> Option<NonNull<c_void>>;
    /// One line for the user: which CANN this is and where it was found.
    fn describe(&self) -> String;
    /// Each library file with what became of it, for a user who asks what was loaded from where; none where the functions
    /// come from no file.
    fn files(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// A symbol that the loaded CANN lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingSymbol {
    /// C name of the function.
    pub name: &'static str,
    /// Library that should have it.
    pub library: Library,
    /// Oldest CANN release that is known to have the symbol.
    pub since: &'static str,
    /// [`SymbolSource::describe`] of the source that lacks it.
    pub source: String,
}

impl fmt::Display for MissingSymbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} has no {} (library {:?}); CANN {} or newer has it",
            self.source, self.name, self.library, self.since
        )
    }
}

impl std::error::Error for MissingSymbol {}

/// What the table says of one runtime function.
#[derive(Clone, Copy, Debug)]
pub struct FunctionDecl {
    /// C name.
    pub name: &'static str,
    /// Library that exports it.
    pub library: Library,
    /// Oldest CANN release that is known to have it.
    pub since: &'static str,
    /// Rust type of the result, `()` for none.
    pub returns: &'static str,
    /// Name and Rust type of each parameter; the types are spaced as the compiler prints them.
    pub params: &'static [(&'static str, &'static str)],
}

/// What the table says of one operator.
#[derive(Clone, Copy, Debug)]
pub struct OperatorDecl {
    /// Without the prefix: `Add` for `aclnnAdd`.
    pub name: &'static str,
    /// Library that exports it in CANN 9.
    pub library: Library,
    /// Oldest CANN release that is known to have it.
    pub since: &'static str,
    /// Whether the simulated CANN implements it.
    pub simulated: bool,
    /// Name and [`kind`] of each parameter of the first phase.
    pub params: &'static [(&'static str, &'static str)],
}

/// Second phase of every operator.
pub type Phase2 = unsafe extern "C" fn(
    workspace: *mut c_void,
    workspace_size: u64,
    executor: *mut aclOpExecutor,
    stream: aclrtStream,
) -> aclnnStatus;

/// One operator of the table, as a type; see [`op`].
pub trait Operator {
    /// Type of the first phase's function.
    type Phase1: Copy + Send + Sync + 'static;
    /// Place in [`OPERATORS`].
    const INDEX: usize;
    /// The row of the table.
    const DECL: OperatorDecl;
    /// C names of the two phases.
    const SYMBOLS: (&'static CStr, &'static CStr);
}

/// The address of one function, looked up at its first use. Public for [`lazy_functions!`](crate::lazy_functions) alone.
#[doc(hidden)]
#[derive(Default)]
pub struct Slot(OnceLock<Option<NonNull<c_void>>>);
// SAFETY: the slot holds the address of a function, which any thread may call.
unsafe impl Send for Slot {}
// SAFETY: as above; the cell itself is a `OnceLock`.
unsafe impl Sync for Slot {}

impl Slot {
    /// The address of `name`, which `source` is asked for once.
    pub fn address(
        &self,
        source: &dyn SymbolSource,
        library: Library,
        since: &'static str,
        name: &'static CStr,
    ) -> Result<NonNull<c_void>, MissingSymbol> {
        self.0.get_or_init(|| source.address(library, name)).ok_or_else(|| MissingSymbol {
            name: name.to_str().unwrap_or("a symbol whose name is not UTF-8"),
            library,
            since,
            source: source.describe(),
        })
    }
}

/// Declares, from the rows of a function table, the list `FUNCTIONS` and a structure with one method a function, each
/// resolved at its first call. A table macro's callback wraps it: `($($rows:tt)*) => { lazy_functions! { … $($rows)* } }`.
#[macro_export]
macro_rules! lazy_functions {
    (
        $(#[$doc:meta])* struct $table:ident;
        $($library:ident $since:literal fn $name:ident($($param:ident : $ty:ty),* $(,)?) -> $ret:ty;)*
    ) => {
        /// Every declared function of this table.
        pub const FUNCTIONS: &[$crate::loader::FunctionDecl] = &[$($crate::loader::FunctionDecl {
            name: stringify!($name), library: $crate::Library::$library, since: $since, returns: stringify!($ret),
            params: &[$((stringify!($param), stringify!($ty))),*],
        }),*];

        #[allow(non_snake_case)]
        #[derive(Default)]
        struct Slots { $($name: $crate::loader::Slot),* }

        $(#[$doc])*
        pub struct $table { source: std::sync::Arc<dyn $crate::SymbolSource>, slots: Slots }

        impl $table {
            /// Binds to `source`; nothing is looked up yet.
            pub fn new(source: std::sync::Arc<dyn $crate::SymbolSource>) -> Self {
                Self { source, slots: Slots::default() }
            }

            /// Where the functions come from.
            pub fn source(&self) -> &std::sync::Arc<dyn $crate::SymbolSource> { &self.source }

            $(
                #[doc = concat!("`", stringify!($name), "`, CANN ", $since, " or newer.")]
                ///
                /// # Errors
                /// The loaded CANN lacks the symbol.
                ///
                /// # Safety
                /// As the C function: pointers must be valid for what the function does with them.
                #[allow(non_snake_case, clippy::too_many_arguments)]
                pub unsafe fn $name(&self, $($param: $ty),*) -> Result<$ret, $crate::MissingSymbol> {
                    const NAME: &std::ffi::CStr =
                        match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                            Ok(name) => name,
                            Err(_) => unreachable!(),
                        };
                    let address = self.slots.$name.address(&*self.source, $crate::Library::$library, $since, NAME)?;
                    // SAFETY: the ABI test holds this signature against the published interface of the named function.
                    let function: unsafe extern "C" fn($($ty),*) -> $ret = unsafe { std::mem::transmute(address) };
                    // SAFETY: the caller vouches for the arguments.
                    Ok($crate::timing::call(|| unsafe { function($($param),*) }))
                }
            )*
        }
    };
}

macro_rules! declare_runtime {
    ($($rows:tt)*) => {
        crate::lazy_functions! {
            /// The ACL runtime and aclnn meta functions of one CANN, each resolved at its first call.
            struct Acl;
            $($rows)*
        }
    };
}
crate::acl_functions!(declare_runtime);

macro_rules! simulated {
    (sim) => {
        true
    };
    (refuse) => {
        false
    };
}

macro_rules! declare_operators {
    ($($name:ident [$library:ident $since:literal $sim:ident] ($($param:ident : $kind:ident),* $(,)?);)*) => {
        /// Every operator of the table.
        pub const OPERATORS: &[OperatorDecl] = &[$(<op::$name as Operator>::DECL),*];

        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Row { $($name),* }

        /// One type an operator.
        pub mod op {
            use super::*;
            $(
                #[doc = concat!("`aclnn", stringify!($name), "`.")]
                #[derive(Clone, Copy, Debug)]
                pub struct $name;
                impl Operator for $name {
                    type Phase1 = unsafe extern "C" fn(
                        $($param: kind::$kind,)* workspace_size: *mut u64, executor: *mut *mut aclOpExecutor,
                    ) -> aclnnStatus;
                    const INDEX: usize = Row::$name as usize;
                    const DECL: OperatorDecl = OperatorDecl {
                        name: stringify!($name), library: Library::$library, since: $since, simulated: simulated!($sim),
                        params: &[$((stringify!($param), stringify!($kind))),*],
                    };
                    const SYMBOLS: (&'static CStr, &'static CStr) = (
                        match CStr::from_bytes_with_nul(concat!("aclnn", stringify!($name), "GetWorkspaceSize\0").as_bytes()) {
                            Ok(name) => name, Err(_) => unreachable!(),
                        },
                        match CStr::from_bytes_with_nul(concat!("aclnn", stringify!($name), "\0").as_bytes()) {
                            Ok(name) => name, Err(_) => unreachable!(),
                        },
                    );
                }
            )*
        }
    };
}
crate::aclnn_operators!(declare_operators);

/// The aclnn operators of one CANN, each pair resolved at its first use.
pub struct Aclnn {
    source: Arc<dyn SymbolSource>,
    slots: Vec<(Slot, Slot)>,
}

impl Aclnn {
    /// Binds to `source`; nothing is looked up yet.
    pub fn new(source: Arc<dyn SymbolSource>) -> Self {
        let slots = OPERATORS.iter().map(|_| <(Slot, Slot)>::default()).collect();
        Self { source, slots }
    }

    /// The two functions of operator `O`.
    ///
    /// # Errors
    /// The loaded CANN lacks one of them.
    pub fn pair<O: Operator>(&self) -> Result<(O::Phase1, Phase2), MissingSymbol> {
        let (first, second) = &self.slots[O::INDEX];
        let find = |slot: &Slot, name| slot.address(&*self.source, O::DECL.library, O::DECL.since, name);
        let first = find(first, O::SYMBOLS.0)?;
        let second = find(second, O::SYMBOLS.1)?;
        const { assert!(size_of::<O::Phase1>() == size_of::<NonNull<c_void>>()) };
        // SAFETY: `Phase1` is a function pointer by construction of the table (the size is checked above), and the ABI
        // test holds its signature against the published interface.
        let first = unsafe { std::mem::transmute_copy::<NonNull<c_void>, O::Phase1>(&first) };
        // SAFETY: the second phase has the same signature for every operator.
        let second = unsafe { std::mem::transmute::<NonNull<c_void>, Phase2>(second) };
        Ok((first, second))
    }

    /// Whether both phases of `O` are present.
    pub fn has<O: Operator>(&self) -> bool {
        self.pair::<O>().is_ok()
    }
}
