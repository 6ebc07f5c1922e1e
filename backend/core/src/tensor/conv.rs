//! Convolutions, pooling and resampling of images and signals, composed of views, products and reductions, so that
//! every device has them and gradients flow.

use super::Tensor;
use crate::conv::CudnnFwdAlgo;
use crate::{DType, Error, Result, ToUsize2, bail};

/// How a kernel moves along one dimension.
#[derive(Clone, Copy)]
struct Slide {
    stride: usize,
    dilation: usize,
}

impl Slide {
    const STILL: Self = Self { stride: 1, dilation: 1 };
}

impl Tensor {
    /// Windows of `size` elements along `dim`, which become a new last dimension; no copy.
    fn windows(&self, dim: usize, size: usize, slide: Slide) -> Result<Self> {
        let reach = slide.dilation * size.saturating_sub(1) + 1;
        if size == 0 || slide.stride == 0 || slide.dilation == 0 || reach > self.dims()[dim] {
            bail!(
                "a kernel of {size} elements with stride {} and dilation {} does not fit dimension {dim} of {:?}",
                slide.stride,
                slide.dilation,
                self.shape()
            )
        }
        let last = self.rank();
        let windows = self.unfold(dim, reach, slide.stride)?;
        // Of a window with gaps, windows of one element are kept.
        if slide.dilation == 1 { Ok(windows) } else { windows.unfold(last, 1, slide.dilation)?.squeeze(last + 1) }
    }

    /// `[B, C, H, W]` with the kernel `[O, C/groups, KH, KW]` at every place, as one product over unrolled windows.
    fn correlate(&self, kernel: &Self, slides: [Slide; 2], groups: usize) -> Result<Self> {
        let (batch, channels, ..) = self.dims4()?;
        let (outputs, per_group, rows, columns) = kernel.dims4()?;
        let windows = self.windows(2, rows, slides[0])?.windows(3, columns, slides[1])?;
        let (height, width) = (windows.dim(2)?, windows.dim(3)?);
        let taps = per_group * rows * columns;
        // Groups of channels are batches of the product.
        let unrolled = windows
            .reshape(vec![batch, groups, channels / groups, height, width, rows, columns])?
            .permute(vec![1, 0, 3, 4, 2, 5, 6])?
            .reshape((groups, batch * height * width, taps))?;
        let weights = kernel.reshape((groups, outputs / groups, taps))?.transpose(1, 2)?;
        unrolled
            .matmul(&weights)?
            .reshape((groups, batch, height, width, outputs / groups))?
            .permute((1, 0, 4, 2, 3))?
            .reshape((batch, outputs, height, width))
    }

    fn padded(&self, dim: usize, by: usize) -> Result<Self> {
        self.pad_with_zeros(dim, by, by)
    }

    /// Convolution of `[B, C, L]` with the kernel `[O, C/groups, K]`.
    pub fn conv1d(&self, kernel: &Self, padding: usize, stride: usize, dilation: usize, groups: usize) -> Result<Self> {
        let (_, per_group, _) = kernel.dims3()?;
        let (_, channels, _) = self.dims3()?;
        if groups == 0 || channels != per_group * groups {
            let (inp_shape, k_shape) = (self.shape().clone(), kernel.shape().clone());
            let msg = "the number of in-channels on the input doesn't match the kernel size";
            return Err(Error::Conv1dInvalidArgs { inp_shape, k_shape, padding, stride, msg }.bt());
        }
        let slides = [Slide::STILL, Slide { stride, dilation }];
        self.padded(2, padding)?.unsqueeze(2)?.correlate(&kernel.unsqueeze(2)?, slides, groups)?.squeeze(2)
    }

    /// As [`Tensor::conv1d`]; the choice of a cuDNN algorithm means nothing here.
    pub fn conv1d_with_algo(
        &self,
        kernel: &Self,
        padding: usize,
        stride: usize,
        dilation: usize,
        groups: usize,
        _algo: Option<CudnnFwdAlgo>,
    ) -> Result<Self> {
        self.conv1d(kernel, padding, stride, dilation, groups)
    }

    /// Convolution of `[B, C, H, W]` with the kernel `[O, C/groups, KH, KW]`.
    pub fn conv2d(&self, kernel: &Self, padding: usize, stride: usize, dilation: usize, groups: usize) -> Result<Self> {
        let (_, channels, ..) = self.dims4()?;
        let (_, per_group, ..) = kernel.dims4()?;
        if groups == 0 || channels != per_group * groups {
            bail!("in_channel mismatch between input ({channels}, groups {groups}) and kernel ({per_group})")
        }
        let slide = Slide { stride, dilation };
        self.padded(2, padding)?.padded(3, padding)?.correlate(kernel, [slide; 2], groups)
    }

    /// As [`Tensor::conv2d`]; the choice of a cuDNN algorithm means nothing here.
    pub fn conv2d_with_algo(
        &self,
        kernel: &Self,
        padding: usize,
        stride: usize,
        dilation: usize,
        groups: usize,
        _algo: Option<CudnnFwdAlgo>,
    ) -> Result<Self> {
        self.conv2d(kernel, padding, stride, dilation, groups)
    }

    /// With `stride - 1` zeros between neighbours along `dim`, then `left` and `right` zeros around; a negative count
    /// takes elements away.
    fn spread(&self, dim: usize, stride: usize, left: isize, right: isize) -> Result<Self> {
        let (mut dims, size) = (self.dims().to_vec(), self.dims()[dim]);
        let gaps = self.unsqueeze(dim + 1)?.pad_with_zeros(dim + 1, 0, stride - 1)?;
        dims[dim] = size * stride;
        let spread = gaps.reshape(dims)?.narrow(dim, 0, (size - 1) * stride + 1)?;
        let grown = spread.pad_with_zeros(dim, left.max(0) as usize, right.max(0) as usize)?;
        let (cut, end) = ((-left).max(0) as usize, (-right).max(0) as usize);
        match grown.dims()[dim].checked_sub(cut + end) {
            Some(len) => grown.narrow(dim, cut, len),
            None => bail!(
                "the padding of a transposed convolution leaves nothing of dimension {dim} of {dims:?}",
                dims = self.dims()
            ),
        }
    }

    /// The adjoint of a strided convolution along `dims`, kernel `[C, O, KH, KW]`.
    fn conv_transpose(
        &self,
        kernel: &Self,
        dims: &[usize],
        [padding, output_padding, stride, dilation]: [usize; 4],
        groups: usize,
    ) -> Result<Self> {
        let (channels, kernel_channels) = (self.dim(1)?, kernel.dim(0)?);
        if channels != kernel_channels {
            bail!("in_channel mismatch between input ({channels}) and kernel ({kernel_channels})")
        }
        if groups == 0 || channels % groups != 0 {
            bail!("in_channel {channels} is not divisible by the number of groups")
        }
        if stride == 0 || dims.iter().any(|&dim| self.dims()[dim] == 0) {
            bail!("a transposed convolution needs a stride and elements, got stride {stride} and {:?}", self.shape())
        }
        let mut spread = self.clone();
        for &dim in dims {
            let reach = (dilation * (kernel.dims()[dim] - 1)) as isize - padding as isize;
            spread = spread.spread(dim, stride, reach, reach + output_padding as isize)?;
        }
        // What gathers from the spread input is the kernel mirrored, its channels exchanged within each group.
        let (_, outputs, rows, columns) = kernel.dims4()?;
        let mirrored = kernel
            .flip(dims)?
            .reshape((groups, channels / groups, outputs, rows, columns))?
            .transpose(1, 2)?
            .reshape((groups * outputs, channels / groups, rows, columns))?;
        let mut slides = [Slide::STILL; 2];
        dims.iter().for_each(|&dim| slides[dim - 2].dilation = dilation);
        spread.correlate(&mirrored, slides, groups)
    }

    /// Transposed convolution of `[B, C, L]` with the kernel `[C, O/groups, K]`.
    pub fn conv_transpose1d(
        &self,
        kernel: &Self,
        padding: usize,
        output_padding: usize,
        stride: usize,
        dilation: usize,
        groups: usize,
    ) -> Result<Self> {
        self.dims3()?;
        kernel.dims3()?;
        let how = [padding, output_padding, stride, dilation];
        self.unsqueeze(2)?.conv_transpose(&kernel.unsqueeze(2)?, &[3], how, groups)?.squeeze(2)
    }

    /// Transposed convolution of `[B, C, H, W]` with the kernel `[C, O, KH, KW]`.
    pub fn conv_transpose2d(
        &self,
        kernel: &Self,
        padding: usize,
        output_padding: usize,
        stride: usize,
        dilation: usize,
    ) -> Result<Self> {
        self.dims4()?;
        kernel.dims4()?;
        self.conv_transpose(kernel, &[2, 3], [padding, output_padding, stride, dilation], 1)
    }

    /// The windows `[B, C, OH, OW, KH, KW]` that a pooling of `[B, C, H, W]` looks at.
    fn pooled<T: ToUsize2>(&self, kernel_size: T, stride: T) -> Result<Self> {
        let (size, stride) = (kernel_size.to_usize2(), stride.to_usize2());
        let (_, _, h, w) = self.dims4()?;
        if h < size.0 || w < size.1 {
            bail!("kernel-size {size:?} is larger than the input size {h},{w}")
        }
        let slide = |stride| Slide { stride, dilation: 1 };
        self.windows(2, size.0, slide(stride.0))?.windows(3, size.1, slide(stride.1))
    }

    /// Mean of each tile of `sz` of `[B, C, H, W]`.
    pub fn avg_pool2d<T: ToUsize2>(&self, sz: T) -> Result<Self> {
        let sz = sz.to_usize2();
        self.avg_pool2d_with_stride(sz, sz)
    }

    /// Mean of each window of `[B, C, H, W]`.
    pub fn avg_pool2d_with_stride<T: ToUsize2>(&self, kernel_size: T, stride: T) -> Result<Self> {
        self.pooled(kernel_size, stride)?.mean((4, 5))
    }

    /// Largest element of each tile of `sz` of `[B, C, H, W]`.
    pub fn max_pool2d<T: ToUsize2>(&self, sz: T) -> Result<Self> {
        let sz = sz.to_usize2();
        self.max_pool2d_with_stride(sz, sz)
    }

    /// Largest element of each window of `[B, C, H, W]`.
    pub fn max_pool2d_with_stride<T: ToUsize2>(&self, kernel_size: T, stride: T) -> Result<Self> {
        self.pooled(kernel_size, stride)?.flatten_from(4)?.max(4)
    }

    /// Resampled to `target` elements along `dim`, each the nearest below in place.
    fn nearest(&self, dim: usize, target: usize) -> Result<Self> {
        let size = self.dims()[dim];
        if size == 0 || target == 0 {
            bail!("resampling dimension {dim} of {:?} to {target} elements needs some of both", self.shape())
        }
        let scale = size as f64 / target as f64;
        let sources: Vec<u32> = (0..target).map(|i| ((i as f64 * scale) as usize).min(size - 1) as u32).collect();
        self.index_select(&Self::new(sources, self.device())?, dim)
    }

    /// `[B, C, L]` resampled to `target_size` elements, each the value of the nearest.
    pub fn interpolate1d(&self, target_size: usize) -> Result<Self> {
        self.dims3()?;
        self.nearest(2, target_size)
    }

    /// As [`Tensor::interpolate1d`].
    pub fn upsample_nearest1d(&self, target_size: usize) -> Result<Self> {
        self.interpolate1d(target_size)
    }

    /// `[B, C, H, W]` resampled, each element the value of the nearest.
    pub fn interpolate2d(&self, target_h: usize, target_w: usize) -> Result<Self> {
        self.dims4()?;
        self.nearest(2, target_h)?.nearest(3, target_w)
    }

    /// As [`Tensor::interpolate2d`].
    pub fn upsample_nearest2d(&self, target_h: usize, target_w: usize) -> Result<Self> {
        self.interpolate2d(target_h, target_w)
    }

    /// Resampled to `target` elements along `dim`, each between its two neighbours. `scale` is the asked-for ratio
    /// of sizes, where it is not that of the sizes themselves.
    fn linear(&self, dim: usize, target: usize, align_corners: bool, scale: Option<f64>) -> Result<Self> {
        let size = self.dims()[dim];
        if size == 0 || target == 0 {
            bail!("resampling dimension {dim} of {:?} to {target} elements needs some of both", self.shape())
        }
        let step = match scale {
            _ if align_corners && target > 1 => (size - 1) as f64 / (target - 1) as f64,
            _ if align_corners => 0.,
            Some(scale) => 1. / scale,
            None => size as f64 / target as f64,
        };
        let place = |i: usize| {
            let place = if align_corners { i as f64 * step } else { ((i as f64 + 0.5) * step - 0.5).max(0.) };
            place.min((size - 1) as f64)
        };
        let below: Vec<u32> = (0..target).map(|i| place(i) as u32).collect();
        let above: Vec<u32> = below.iter().map(|&i| (i + 1).min(size as u32 - 1)).collect();
        let weights: Vec<f64> = (0..target).zip(&below).map(|(i, &below)| place(i) - below as f64).collect();
        let mut dims = vec![1; self.rank()];
        dims[dim] = target;
        let weights = Self::from_vec(weights, dims, &crate::Device::Cpu)?;
        // The device need not have F64.
        let weights = weights.to_dtype(self.dtype())?.to_device(self.device())?;
        let at = |places: Vec<u32>| self.index_select(&Self::new(places, self.device())?, dim);
        let (below, above) = (at(below)?, at(above)?);
        &below + (above - &below)?.broadcast_mul(&weights)?
    }

    /// `[B, C, H, W]` resampled to `(target_h, target_w)` linearly in both directions. With `align_corners` the corner
    /// elements keep their places, else elements are areas.
    pub fn upsample_bilinear2d(&self, target_h: usize, target_w: usize, align_corners: bool) -> Result<Self> {
        self.bilinear((target_h, target_w), align_corners, None)
    }

    /// As [`Tensor::upsample_bilinear2d`], the sizes given as ratios (rounded down).
    pub fn upsample_bilinear2d_with_scale(&self, scale_h: f64, scale_w: f64, align_corners: bool) -> Result<Self> {
        let (_, _, h, w) = self.dims4()?;
        let target = ((h as f64 * scale_h).floor() as usize, (w as f64 * scale_w).floor() as usize);
        if target == (h, w) {
            return Ok(self.clone());
        }
        self.bilinear(target, align_corners, Some((scale_h, scale_w)))
    }

    fn bilinear(&self, (h, w): (usize, usize), align_corners: bool, scale: Option<(f64, f64)>) -> Result<Self> {
        self.dims4()?;
        // Rounded once at the end, as a kernel does it.
        let wide = if self.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        self.to_dtype(wide)?
            .linear(2, h, align_corners, scale.map(|s| s.0))?
            .linear(3, w, align_corners, scale.map(|s| s.1))?
            .to_dtype(self.dtype())
    }
}
