//! Derivatives of the functions of one and of two elements.

use crate::{Result, Tensor};
use candle_core::op::{self, BinaryOpT, UnaryOpT};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

/// A function of one element that knows its derivative.
pub(crate) trait Slope: UnaryOpT + 'static {
    /// The gradient of `x`, given `y`, the function of it, and the gradient of `y`; none where it is zero everywhere.
    fn backward(x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>>;
}

macro_rules! slopes {
    ($($(#[$doc:meta])* $op:ident: |$x:pat_param, $y:pat_param, $grad:pat_param| $gradient:expr;)*) => { $(
        impl Slope for op::$op {
            $(#[$doc])*
            fn backward($x: &Tensor, $y: &Tensor, $grad: &Tensor) -> Result<Option<Tensor>> {
                Ok(Some($gradient?))
            }
        }
    )* };
}

slopes! {
    Exp: |_, y, g| g * y;
    Log: |x, _, g| g / x;
    Sin: |x, _, g| g * x.cos()?;
    Cos: |x, _, g| (g * x.sin()?)?.neg();
    Tanh: |_, y, g| g * (1. - y.sqr()?)?;
    /// One at zero, as in candle.
    Abs: |x, _, g| x.ge(&x.zeros_like()?)?.where_cond(g, &g.neg()?);
    Neg: |_, _, g| g.neg();
    Recip: |_, y, g| (g * y.sqr()?)?.neg();
    Sqr: |x, _, g| (g * x)? * 2.;
    Sqrt: |_, y, g| (g / y)? * 0.5;
    Erf: |x, _, g| g * (x.sqr()?.neg()?.exp()? * FRAC_2_SQRT_PI)?;
    Gelu: |x, _, g| g * gelu_slope(x)?;
    GeluErf: |x, _, g| g * gelu_erf_slope(x)?;
    /// One at zero, as in candle.
    Relu: |x, _, g| x.ge(&x.zeros_like()?)?.where_cond(g, &g.zeros_like()?);
    Silu: |x, y, g| g * silu_slope(x, y)?;
}

/// Functions that are constant between their steps.
macro_rules! flat {
    ($($op:ident)*) => { $(
        impl Slope for op::$op {
            fn backward(_: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
                Ok(None)
            }
        }
    )* };
}

flat! { Ceil Floor Round Sign }

/// Of `0.5 x (1 + tanh(k (x + 0.044715 x³)))` with `k = sqrt(2 / pi)`.
fn gelu_slope(x: &Tensor) -> Result<Tensor> {
    let k = (2. / PI).sqrt();
    let square = x.sqr()?;
    let tanh = ((square.affine(0.044715, 1.)? * x)? * k)?.tanh()?;
    let inner = square.affine(3. * 0.044715 * k, k)?;
    let curve = (((1. - tanh.sqr()?)? * inner)? * x)?;
    (curve + tanh)?.affine(0.5, 0.5)
}

/// Of `0.5 x (1 + erf(x / sqrt(2)))`.
fn gelu_erf_slope(x: &Tensor) -> Result<Tensor> {
    let density = ((x.sqr()? * -0.5)?.exp()? * (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2))?;
    (density * x)? + (x * FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5)?
}

/// `s + y (1 - s)` where `s` is the sigmoid of `x` and `y = x s`.
fn silu_slope(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let sigmoid = (x.neg()?.exp()? + 1.)?.recip()?;
    (y * (1. - &sigmoid)?)? + sigmoid
}

/// A function of two elements that knows its derivatives.
pub(crate) trait BinarySlopes: BinaryOpT + 'static {
    fn of_lhs(lhs: &Tensor, rhs: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Tensor>;
    fn of_rhs(lhs: &Tensor, rhs: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Tensor>;
}

macro_rules! binary_slopes {
    ($($op:ident: |$l:pat_param, $r:pat_param, $y:pat_param, $g:pat_param| $of_lhs:expr, $of_rhs:expr;)*) => { $(
        #[allow(unused_variables)]
        impl BinarySlopes for op::$op {
            fn of_lhs($l: &Tensor, $r: &Tensor, $y: &Tensor, $g: &Tensor) -> Result<Tensor> {
                $of_lhs
            }
            fn of_rhs($l: &Tensor, $r: &Tensor, $y: &Tensor, $g: &Tensor) -> Result<Tensor> {
                $of_rhs
            }
        }
    )* };
}

binary_slopes! {
    Add: |l, r, y, g| Ok(g.clone()), Ok(g.clone());
    Sub: |l, r, y, g| Ok(g.clone()), g.neg();
    Mul: |l, r, y, g| g * r, g * l;
    Div: |l, r, y, g| g / r, ((g * y)? / r)?.neg();
    Maximum: |l, r, y, g| extreme(l, r, y, g), extreme(r, l, y, g);
    Minimum: |l, r, y, g| extreme(l, r, y, g), extreme(r, l, y, g);
}

/// The gradient of the operand that gave the result, halved where both did.
fn extreme(own: &Tensor, other: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let dtype = grad.dtype();
    let (own, other) = (own.eq(result)?.to_dtype(dtype)?, other.eq(result)?.to_dtype(dtype)?);
    (own * grad)? / (other + 1.)?
}
