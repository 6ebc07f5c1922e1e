//! The operator table: one row an operator, everything else derived.
//!
//! A row reads
//!
//! ```text
//! Name [library "oldest CANN" simulator] (parameter: Kind, …);
//! ```
//!
//! and stands for the pair `aclnnNameGetWorkspaceSize(parameters…, uint64_t *workspaceSize, aclOpExecutor **executor)`
//! and `aclnnName(void *workspace, uint64_t workspaceSize, aclOpExecutor *executor, aclrtStream stream)`.
//! `library` is the library that CANN 9 splits the operator into (CANN 8 has one, `libopapi.so`). `simulator` is `sim`
//! where the simulated CANN implements the operator and `refuse` where its export answers with a real error code.
//! A [`kind`] gives each parameter its C type and says what the operator does with it.

/// Calls `$callback! { rows… }` with the whole operator table.
#[macro_export]
macro_rules! aclnn_operators {
    ($callback:ident) => {
        $callback! {
            // elementwise
            Abs [math "8.1" sim] (self_: In, out: Out);
            Neg [math "8.1" sim] (self_: In, out: Out);
            Exp [math "8.1" sim] (self_: In, out: Out);
            Log [math "8.1" sim] (self_: In, out: Out);
            Log2 [math "8.1" sim] (self_: In, out: OutC);
            Sqrt [math "8.1" sim] (self_: In, out: Out);
            Rsqrt [math "8.1" sim] (self_: In, out: Out);
            Sin [math "8.1" sim] (self_: In, out: Out);
            Cos [math "8.1" sim] (input: In, out: Out);
            Tan [math "8.1" sim] (self_: In, out: Out);
            Tanh [math "8.1" sim] (self_: In, out: Out);
            Erf [math "8.1" sim] (self_: In, out: Out);
            Relu [nn "8.1" sim] (self_: In, out: OutC);
            LeakyRelu [nn "8.1" sim] (self_: In, negative_slope: Scalar, out: Out);
            Elu [nn "8.1" sim] (self_: In, alpha: Scalar, scale: Scalar, input_scale: Scalar, out: Out);
            Gelu [nn "8.1" sim] (self_: In, out: Out);
            GeluV2 [nn "8.1" sim] (x: In, approximate: I64, y: Out);
            Silu [nn "8.1" sim] (self_: In, out: Out);
            Sigmoid [nn "8.1" sim] (self_: In, out: Out);
            LogSigmoid [nn "8.1" sim] (self_: In, out: Out);
            Softplus [nn "8.1" sim] (self_: In, beta: Scalar, threshold: Scalar, out: Out);
            Mish [nn "8.1" sim] (self_: In, out: Out);
            Hardswish [nn "8.1" sim] (self_: In, out: OutC);
            Hardsigmoid [nn "8.1" sim] (self_: In, out: Out);
            Ceil [math "8.1" sim] (self_: In, out: Out);
            Floor [math "8.1" sim] (self_: In, out: Out);
            Round [math "8.1" sim] (self_: In, out: Out);
            Trunc [math "8.1" sim] (self_: In, out: Out);
            Frac [math "8.1" sim] (input: In, out: Out);
            Reciprocal [math "8.1" sim] (self_: In, out: Out);
            Sign [math "8.1" sim] (self_: In, result: Out);
            IsFinite [math "8.1" sim] (self_: In, out: Out);
            LogicalNot [math "8.1" sim] (self_: In, out: Out);
            BitwiseNot [math "8.1" sim] (self_: In, out: Out);
            Expm1 [math "8.1" sim] (self_: In, out: Out);
            Log1p [math "8.1" sim] (self_: In, out: Out);
            InplaceRelu [nn "8.1" sim] (self_ref: Ref);
            InplaceSigmoid [nn "8.1" sim] (self_ref: Ref);
            InplaceExp [math "8.1" sim] (self_ref: Ref);
            InplaceSqrt [math "8.1" sim] (self_: Ref);
            InplaceNeg [math "8.1" sim] (self_ref: Ref);

            // binary
            Add [math "8.1" sim] (self_: In, other: In, alpha: Scalar, out: Out);
            Adds [math "8.1" sim] (self_: In, other: Scalar, alpha: Scalar, out: Out);
            Sub [math "8.1" sim] (self_: In, other: In, alpha: Scalar, out: Out);
            Subs [math "8.1" sim] (self_: In, other: Scalar, alpha: Scalar, out: Out);
            Rsubs [math "8.1" sim] (self_: In, other: Scalar, alpha: Scalar, out: Out);
            Mul [math "8.1" sim] (self_: In, other: In, out: Out);
            Muls [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            Div [math "8.1" sim] (self_: In, other: In, out: Out);
            Divs [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            DivMod [math "8.1" sim] (self_: In, other: In, mode: Int, out: Out);
            Maximum [math "8.1" sim] (self_: In, other: In, out: Out);
            Minimum [math "8.1" sim] (self_: In, other: In, out: Out);
            PowTensorScalar [math "8.1" sim] (self_: In, exponent: Scalar, out: OutC);
            PowTensorTensor [math "8.1" sim] (self_: In, exponent: In, out: Out);
            PowScalarTensor [math "8.1" sim] (self_: Scalar, exponent: In, out: OutC);
            FmodTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            FmodScalar [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            RemainderTensorTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            RemainderTensorScalar [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            Atan2 [math "8.1" sim] (self_: In, other: In, out: Out);
            Clamp [math "8.1" sim] (self_: In, clip_value_min: Scalar, clip_value_max: Scalar, out: Out);
            ClampMin [math "8.1" sim] (self_: In, clip_value_min: Scalar, out: Out);
            ClampMax [math "8.1" sim] (self_: In, clip_value_max: Scalar, out: Out);
            Addcmul [math "8.1" sim] (self_: In, tensor1: In, tensor2: In, value: Scalar, out: Out);
            Addcdiv [math "8.1" sim] (self_: In, tensor1: In, tensor2: In, value: Scalar, out: OutC);
            Lerp [math "8.1" sim] (self_: In, end: In, weight: In, out: Out);
            InplaceAdd [math "8.1" sim] (self_ref: In, other: In, alpha: Scalar);
            InplaceAdds [math "8.1" sim] (self_ref: In, other: Scalar, alpha: Scalar);
            InplaceSub [math "8.1" sim] (self_ref: Ref, other: In, alpha: Scalar);
            InplaceSubs [math "8.1" sim] (self_ref: Ref, other: Scalar, alpha: Scalar);
            InplaceMul [math "8.1" sim] (self_ref: Ref, other: In);
            InplaceMuls [math "8.1" sim] (self_ref: Ref, other: Scalar);
            InplaceDiv [math "8.1" sim] (self_ref: Ref, other: In);
            InplaceDivs [math "8.1" sim] (self_ref: Ref, other: Scalar);
            InplaceAddcmul [math "8.1" sim] (self_ref: In, tensor1: In, tensor2: In, value: Scalar);
            InplaceAddcdiv [math "8.1" sim] (self_ref: In, tensor1: In, tensor2: In, value: Scalar);
            LogicalAnd [math "8.1" sim] (self_: In, other: In, out: Out);
            LogicalOr [math "8.1" sim] (self_: In, other: In, out: Out);
            LogicalXor [math "8.1" sim] (self_: In, other: In, out: Out);
            BitwiseAndTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            BitwiseOrTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            BitwiseXorTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            LeftShift [math "9.1" sim] (self_: In, shift_bits: In, out: Out);
            RightShift [math "9.1" sim] (input: In, shift_bits: In, out: Out);

            // compare
            EqTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            EqScalar [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            NeTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            NeScalar [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            GtTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            GtScalar [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            GeTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            GeScalar [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            LtTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            LtScalar [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            LeTensor [math "8.1" sim] (self_: In, other: In, out: Out);
            LeScalar [math "8.1" sim] (self_: In, other: Scalar, out: Out);
            SWhere [math "8.1" sim] (condition: In, self_: In, other: In, out: Out);
            InplaceMaskedFillScalar [math "8.1" sim] (self_ref: Ref, mask: In, value: Scalar);
            InplaceMaskedFillTensor [math "8.1" sim] (self_ref: Ref, mask: In, value: In);
            MaskedSelect [math "8.1" sim] (self_: In, mask: In, out: Out);
            Equal [math "8.1" sim] (self_: In, other: In, out: Out);

            // cast_copy
            Cast [math "8.1" sim] (self_: In, dtype: DType, out: Out);
            InplaceCopy [math "8.1" sim] (self_ref: Ref, src: In);
            InplaceZero [math "8.1" sim] (self_ref: Ref);
            InplaceOne [math "8.1" sim] (self_ref: In);
            InplaceFillScalar [math "8.1" sim] (self_ref: Ref, value: Scalar);
            InplaceFillTensor [math "8.1" sim] (self_ref: Ref, value: In);
            Arange [math "8.1" sim] (start: Scalar, end: Scalar, step: Scalar, out: Out);
            Range [math "8.1" sim] (start: Scalar, end: Scalar, step: Scalar, out: Out);
            Linspace [math "8.1" sim] (start: Scalar, end: Scalar, steps: I64, out: Out);
            Eye [math "8.1" sim] (n: I64, m: I64, out: Out);
            Permute [math "8.1" sim] (self_: In, dims: Ints, out: Out);
            Cat [math "8.1" sim] (tensors: InList, dim: I64, out: Out);
            Stack [math "8.1" sim] (tensors: InList, dim: I64, out: Out);
            SplitTensor [math "8.1" sim] (self_: In, split_sections: U64, dim: I64, out: OutList);
            SplitWithSize [math "8.1" sim] (self_: In, split_size: Ints, dim: I64, out: OutList);
            Slice [math "8.1" sim] (self_: In, dim: I64, start: I64, end: I64, step: I64, out: Out);
            SliceV2 [math "8.1" sim] (self_: In, starts: Ints, ends: Ints, axes: Ints, steps: Ints, out: Out);
            StridedSlice [math "9.1" sim] (self_: In, begin: Ints, end: Ints, strides: Ints, begin_mask: I64, end_mask: I64, ellipsis_mask: I64, new_axis_mask: I64, shrink_axis_mask: I64, out: Out);
            Expand [math "8.1" sim] (self_: In, size: Ints, out: Out);
            Repeat [math "8.1" sim] (self_: In, repeats: Ints, out: Out);
            RepeatInterleaveInt [nn "8.1" sim] (self_: In, repeats: I64, output_size: I64, out: Out);
            ConstantPadNd [math "8.1" sim] (self_: In, pad: Ints, value: Scalar, out: Out);
            Flip [nn "8.1" sim] (self_: In, dims: Ints, out: Out);
            Roll [math "8.1" sim] (x: In, shifts: Ints, dims: Ints, out: Out);
            Tril [math "8.1" sim] (self_: In, diagonal: I64, out: Out);
            Triu [math "8.1" sim] (self_: In, diagonal: I64, out: Out);
            InplaceTril [math "8.1" sim] (self_ref: In, diagonal: I64);
            InplaceTriu [math "8.1" sim] (self_ref: Ref, diagonal: I64);
            OneHot [math "8.1" sim] (self_: In, num_classes: Int, on_value: In, off_value: In, axis: I64, out: Out);

            // reduce
            ReduceSum [math "8.1" sim] (self_: In, dims: Ints, keep_dims: Bool, dtype: DType, out: Out);
            Sum [math "8.1" sim] (tensors: InList, out: Out);
            Mean [math "8.1" sim] (self_: In, dim: Ints, keep_dim: Bool, dtype: DType, out: Out);
            MeanV2 [math "8.1" sim] (self_: In, dim: Ints, keep_dim: Bool, noop_with_empty_axes: Bool, out: Out);
            Amax [math "8.1" sim] (self_: In, dim: Ints, keep_dim: Bool, out: Out);
            Amin [math "8.1" sim] (self_: In, dim: Ints, keep_dim: Bool, out: Out);
            Max [math "8.1" sim] (self_: In, out: Out);
            Min [math "8.1" sim] (self_: In, out: Out);
            MaxDim [math "8.1" sim] (self_: In, dim: I64, keepdim: Bool, out: Out, indices: Out);
            MinDim [math "8.1" sim] (self_: In, dim: I64, keepdim: Bool, out: Out, indices: Out);
            ArgMax [math "8.1" sim] (self_: In, dim: I64, keepdim: Bool, out: Out);
            ArgMin [math "8.1" sim] (self_: In, dim: I64, keepdim: Bool, out: Out);
            Prod [math "8.1" sim] (self_: In, dtype: DType, out: Out);
            ProdDim [math "8.1" sim] (self_: In, dim: I64, keep_dim: Bool, dtype: DType, out: Out);
            Var [math "8.1" sim] (self_: In, dim: Ints, unbiased: Bool, keepdim: Bool, out: Out);
            Std [math "8.1" sim] (self_: In, dim: Ints, correction: I64, keepdim: Bool, out: Out);
            VarMean [math "8.1" sim] (self_: In, dim: Ints, correction: I64, keepdim: Bool, var_out: Out, mean_out: Out);
            Cumsum [math "8.1" sim] (self_: In, dim: I64, dtype: DType, out: Out);
            Cumprod [math "8.1" sim] (input: In, dim: Scalar, dtype: DType, out: Out);
            All [math "8.1" sim] (self_: In, dim: Ints, keepdim: Bool, out: Out);
            Any [math "8.1" sim] (self_: In, dim: Ints, keepdim: Bool, out: Out);
            LogSumExp [math "8.1" sim] (self_: In, dim: Ints, keep_dim: Bool, out: Out);
            Norm [nn "8.1" sim] (self_: In, p_scalar: Scalar, dim: Ints, keepdim: Bool, out: Out);
            ReduceNansum [math "8.1" sim] (self_: In, dim: Ints, keep_dim: Bool, dtype: DType, out: Out);
            Median [nn "8.1" sim] (self_: In, values_out: Out);
            ReduceLogSum [math "8.1" sim] (data: In, axes: Ints, keep_dims: Bool, noop_with_empty_axes: Bool, reduce: Out);

            // index
            IndexSelect [nn "8.1" sim] (self_: In, dim: I64, index: In, out: Out);
            Gather [nn "8.1" sim] (self_: In, dim: I64, index: In, out: Out);
            GatherV2 [nn "8.1" sim] (self_: In, dim: I64, index: In, out: Out);
            GatherNd [nn "8.1" sim] (self_: In, indices: In, negative_index_support: Bool, out: Out);
            Scatter [nn "8.1" sim] (self_: In, dim: I64, index: In, src: In, reduce: I64, out: Out);
            ScatterAdd [nn "8.1" sim] (self_: In, dim: I64, index: In, src: In, out: Out);
            InplaceScatter [nn "8.1" sim] (self_ref: Ref, dim: I64, index: In, src: In, reduce: I64);
            InplaceScatterUpdate [nn "8.1" sim] (data: Ref, indices: In, updates: In, axis: I64);
            ScatterNd [nn "8.1" sim] (data: In, indices: In, updates: In, out: Out);
            ScatterNdUpdate [nn "8.1" sim] (var_ref: Ref, indices: In, updates: In);
            IndexAdd [nn "8.1" sim] (self_: In, dim: I64, index: In, source: In, alpha: Scalar, out: Out);
            IndexAddV2 [nn "9.1" sim] (self_: In, dim: I64, index: In, source: In, alpha: Scalar, mode: I64, out: Out);
            Index [nn "8.1" sim] (self_: In, indices: InList, out: Out);
            IndexPutImpl [nn "8.1" sim] (self_ref: Ref, indices: InList, values: In, accumulate: Bool, unsafe_: Bool);
            IndexCopy [nn "8.1" sim] (self_ref: Ref, dim: I64, index: In, source: In, out_ref: Ref);
            IndexFillTensor [nn "8.1" sim] (self_: In, dim: I64, index: Ints, value: Scalar, out: Out);
            InplaceIndexCopy [nn "8.1" sim] (self_ref: Ref, dim: I64, index: In, source: In);
            Embedding [nn "8.1" sim] (weight: In, indices: In, out: OutC);
            EmbeddingDenseBackward [nn "8.1" sim] (grad: In, indices: In, num_weights: U64, padding_idx: U64, scale_grad_by_freq: Bool, out: OutC);
            Take [nn "8.1" sim] (self_: In, index: In, out: Out);
            Nonzero [nn "8.1" sim] (self_: In, out: Out);
            NonzeroV2 [nn "8.1" sim] (self_: In, out: Out);
            ScatterPaKvCache [nn "9.1" sim] (key: In, key_cache_ref: Ref, slot_mapping: In, value: In, value_cache_ref: Ref, compress_lens: Opt, compress_seq_offset: Opt, seq_lens: Opt, cache_mode: OptStrMut, scatter_mode: OptStrMut, strides: OptInts, offsets: OptInts);
            Bincount [math "8.1" sim] (self_: In, weights: Opt, minlength: I64, out: Out);
            Histc [math "8.1" sim] (self_: In, bins: I64, min: Scalar, max: Scalar, out: Out);

            // sort
            Sort [math "8.1" sim] (self_: In, stable: Bool, dim: I64, descending: Bool, values_out: Out, indices_out: Out);
            Argsort [math "8.1" sim] (self_: In, dim: I64, descending: Bool, out: Out);
            Topk [math "8.1" sim] (self_: In, k: I64, dim: I64, largest: Bool, sorted: Bool, values_out: Out, indices_out: Out);
            Unique2 [nn "8.1" sim] (self_: In, sorted: Bool, return_inverse: Bool, return_counts: Bool, value_out: Out, inverse_out: Out, counts_out: Out);
            UniqueConsecutive [nn "8.1" sim] (self_: In, return_inverse: Bool, return_counts: Bool, dim: I64, value_out: Out, inverse_out: Out, counts_out: Out);
            SearchSorteds [math "8.1" sim] (sorted_sequence: In, self_: Scalar, out_int32: Bool, right: Bool, sorter: Opt, out: Out);
            Kthvalue [nn "8.1" sim] (self_: In, k: I64, dim: I64, keepdim: Bool, values_out: Out, indices_out: Out);

            // random
            InplaceNormal [math "8.1" sim] (self_ref: In, mean: F32, std: F32, seed: I64, offset: I64);
            InplaceUniform [math "8.1" sim] (self_ref: In, from: F64, to: F64, seed: U64, offset: U64);
            InplaceRandom [math "8.1" sim] (self_ref: In, from: I64, to: I64, seed: I64, offset: I64);
            InplaceBernoulli [math "8.1" sim] (self_ref: In, prob: Scalar, seed: I64, offset: I64);
            Multinomial [math "8.1" sim] (self_: In, numsamples: I64, replacement: Bool, seed: I64, offset: I64, out: Out);
            Dropout [math "8.1" sim] (input: In, p: F64, train: Bool, seed: I64, offset: I64, out: Out, mask_out: Out);
            DropoutGenMask [math "8.1" sim] (shape: Ints, prob: F64, seed: I64, offset: I64, out: Out);
            DropoutGenMaskV2 [math "8.1" sim] (shape: Ints, prob: F64, seed: I64, offset: I64, prob_data_type: DType, out: Out);
            DropoutDoMask [math "8.1" sim] (self_: In, mask: In, prob: F64, out: Out);
            DropoutBackward [math "8.1" sim] (grad_output: In, mask: In, scale: F64, out: Out);
            Randperm [math "8.1" sim] (n: I64, seed: I64, offset: I64, out: Out);

            // matmul
            Matmul [nn "8.1" sim] (self_: In, mat2: In, out: Out, cube_math_type: I8);
            Mm [nn "8.1" sim] (self_: In, mat2: In, out: Out, cube_math_type: I8);
            BatchMatMul [nn "8.1" sim] (self_: In, mat2: In, out: Out, cube_math_type: I8);
            Addmm [nn "8.1" sim] (self_: In, mat1: In, mat2: In, beta: Scalar, alpha: Scalar, out: Out, cube_math_type: I8);
            InplaceAddmm [nn "8.1" sim] (self_ref: In, mat1: In, mat2: In, beta: Scalar, alpha: Scalar, cube_math_type: I8);
            Baddbmm [nn "8.1" sim] (self_: In, batch1: In, batch2: In, beta: Scalar, alpha: Scalar, out: Out, cube_math_type: I8);
            Addbmm [nn "8.1" refuse] (self_: In, batch1: In, batch2: In, beta: Scalar, alpha: Scalar, out: Out, cube_math_type: I8);
            Mv [nn "8.1" sim] (self_: In, vec: In, out: Out, cube_math_type: I8);
            Dot [math "8.1" sim] (self_: In, tensor: In, out: Out);
            Gemm [nn "8.1" sim] (a: In, b: In, c: In, alpha: F32, beta: F32, trans_a: I64, trans_b: I64, out: Out, cube_math_type: I8);
            MatmulWeightNz [nn "9.1" refuse] (self_: In, mat2: In, out: Out, cube_math_type: I8);
            TransMatmulWeight [math "8.1" refuse] (mm_weight_ref: Ref);
            NpuFormatCast [math "9.1" refuse] (src_tensor: In, dst_tensor: Out);
            Ger [math "8.1" refuse] (self_: In, vec2: In, out: Out);
            FusedMatmul [nn "9.1" refuse] (x1: In, x2: In, bias: In, x3: In, fused_op_type: Str, cube_math_type: I8, y: OutC);
            Convolution [nn "8.1" refuse] (input: In, weight: In, bias: In, stride: Ints, padding: Ints, dilation: Ints, transposed: Bool, output_padding: Ints, groups: I64, output: Out, cube_math_type: I8);

            // norm
            RmsNorm [nn "8.1" sim] (x: In, gamma: In, epsilon: F64, y_out: OutC, rstd_out: OutC);
            RmsNormGrad [nn "8.1" sim] (dy: In, x: In, rstd: In, gamma: In, dx_out: OutC, dgamma_out: OutC);
            AddRmsNorm [nn "8.1" sim] (x1: In, x2: In, gamma: In, epsilon: F64, y_out: OutC, rstd_out: OptOutC, x_out: OptOutC);
            AddRmsNormCast [nn "9.1" sim] (x1: In, x2: In, gamma: In, epsilon: F64, y1_out: OutC, y2_out: OutC, rstd_out: OutC, x_out: OutC);
            AddRmsNormQuant [nn "8.1" refuse] (x1: In, x2: In, gamma: In, scales1: In, scales2: Opt, zero_points1: Opt, zero_points2: Opt, axis: I64, epsilon: F64, div_mode: Bool, y1_out: OutC, y2_out: OutC, x_out: In);
            GemmaRmsNorm [nn "8.1" sim] (x: In, gamma: In, epsilon: F64, y_out: OutC, rstd_out: OutC);
            LayerNorm [nn "8.1" sim] (input: In, normalized_shape: Ints, weight: Opt, bias: Opt, eps: F64, out: Out, mean_out: OptOut, rstd_out: OptOut);
            LayerNormBackward [nn "8.1" sim] (grad_out: In, input: In, normalized_shape: Ints, mean: In, rstd: In, weight: Opt, bias: Opt, output_mask: Bools, grad_input_out: OptOut, grad_weight_out: OptOut, grad_bias_out: OptOut);
            FastLayerNorm [nn "9.1" sim] (input: In, normalized_shape: Ints, weight: Opt, bias: Opt, eps: F64, out: Out, mean_out: OptOut, rstd_out: OptOut);
            AddLayerNorm [nn "8.1" refuse] (x1: In, x2: In, gamma: In, beta: In, bias: Opt, epsilon: F64, additional_output: Bool, y_out: OutC, mean_out: OutC, rstd_out: OutC, x_out: In);
            GroupNorm [nn "8.1" refuse] (self_: In, gamma: In, beta: In, n: I64, c: I64, hx_w: I64, group: I64, eps: F64, out: Out, mean_out: Out, rstd_out: Out);
            DeepNorm [nn "8.1" refuse] (x: In, gx: In, beta: In, gamma: In, alpha: F64, epsilon: F64, mean_out: OutC, rstd_out: OutC, y_out: OutC);

            // softmax
            Softmax [nn "8.1" sim] (self_: In, dim: I64, out: Out);
            SoftmaxBackward [nn "8.1" sim] (grad_output: In, output: In, dim: I64, out: Out);
            LogSoftmax [nn "8.1" sim] (self_: In, dim: I64, out: Out);
            LogSoftmaxBackward [nn "8.1" sim] (grad_output: In, output: In, dim: I64, out: Out);
            CrossEntropyLoss [nn "8.1" sim] (input: In, target: In, weight: Opt, reduction: OptStrMut, ignore_index: I64, label_smoothing: F64, lse_square_scale_for_zloss: F64, return_zloss: Bool, loss_out: OutC, log_prob_out: OutC, zloss_out: OptOutC, lse_for_zloss_out: OptOutC);
            CrossEntropyLossGrad [nn "8.1" sim] (grad_loss: In, log_prob: In, target: In, weight: Opt, grad_zloss: Opt, lse_for_zloss: Opt, reduction: OptStrMut, ignore_index: I64, label_smoothing: F64, lse_square_scale_for_zloss: F64, out: OutC);
            NLLLoss [nn "8.1" sim] (self_: In, target: In, weight: In, reduction: I64, ignore_index: I64, out: Out, total_weight_out: Out);
            NLLLossBackward [nn "8.1" sim] (grad_output: In, self_: In, target: In, weight: In, reduction: I64, ignore_index: I64, total_weight: In, out: Out);
            KlDiv [math "8.1" sim] (self_: In, target: In, reduction: I64, log_target: Bool, out: Out);
            MseLoss [nn "8.1" sim] (self_: In, target: In, reduction: I64, out: Out);
            MseLossBackward [nn "8.1" sim] (grad_output: In, self_: In, target: In, reduction: I64, out: Out);
            SoftmaxCrossEntropyWithLogits [nn "8.1" refuse] (features: In, labels: Out, loss: Out, backprop: Out);

            // activation
            SwiGlu [nn "8.1" sim] (x: In, dim: I64, out: OutC);
            SwiGluGrad [nn "8.1" sim] (y_grad: In, x: In, dim: I64, out: OutC);
            GeGluV3 [nn "8.1" sim] (self_: In, dim: I64, approximate: I64, activate_left: Bool, out: Out, out_gelu: Out);
            Glu [nn "8.1" sim] (self_: In, dim: I64, out: OutC);
            SiluBackward [nn "8.1" sim] (grad_output: In, self_: In, grad_input: Out);
            GeluBackward [nn "8.1" sim] (grad_output: In, self_: In, grad_input: OutC);
            GeluBackwardV2 [nn "8.1" sim] (grad_output: In, self_: In, approximate: StrMut, grad_input: Out);
            TanhBackward [math "8.1" sim] (grad_output: In, output: In, grad_input: Out);
            SigmoidBackward [nn "8.1" sim] (grad_output: In, output: In, grad_input: Out);
            ThresholdBackward [nn "8.1" sim] (grad_output: In, self_: In, threshold: Scalar, out: Out);
            SoftplusBackward [nn "8.1" sim] (grad_output: In, self_: In, beta: Scalar, threshold: Scalar, grad_input: Out);
            FatreluMul [nn "8.1" refuse] (input: In, threshold: In, out: OutC);
            Swish [nn "8.1" sim] (self_: In, beta: OptScalar, out: Out);

            // rope
            RotaryPositionEmbedding [transformer "9.1" sim] (x: In, cos: In, sin: In, mode: I64, out: Out);
            RotaryPositionEmbeddingGrad [transformer "9.1" refuse] (dy: In, cos: In, sin: In, x: Opt, mode: I64, dx_out: OutC, dcos_out: OutC, dsin_out: OutC);
            KvRmsNormRopeCache [transformer "9.1" refuse] (kv: In, gamma: In, cos: In, sin: In, index: In, k_cache_ref: Ref, ckv_cache_ref: Ref, k_rope_scale: Opt, c_kv_scale: Opt, k_rope_offset: Opt, c_kv_offset: Opt, epsilon: F64, cache_mode: OptStrMut, is_output_kv: Bool, k_rope_out: OutC, c_kv_out: OutC);
            ApplyRotaryPosEmb [transformer "8.1" sim] (query_ref: Ref, key_ref: Ref, cos: In, sin: In, layout: I64);
            ApplyRotaryPosEmbV2 [transformer "9.1" sim] (query_ref: Ref, key_ref: Ref, cos: In, sin: In, layout: I64, rotary_mode: StrMut);
            InterleaveRope [transformer "9.1" refuse] (x: In, cos: In, sin: In, out: Out);
            RopeWithSinCosCache [transformer "9.1" refuse] (positions: In, query_in: In, key_in: In, cos_sin_cache: In, mrope_section: Ints, head_size: I64, is_neox_style: Bool, query_out: Out, key_out: Out);
            NormRopeConcat [transformer "9.1" sim] (query: In, key: In, value: In, encoder_query: Opt, encoder_key: Opt, encoder_value: Opt, norm_query_weight: Opt, norm_query_bias: Opt, norm_key_weight: Opt, norm_key_bias: Opt, norm_added_query_weight: Opt, norm_added_query_bias: Opt, norm_added_key_weight: Opt, norm_added_key_bias: Opt, rope_sin: Opt, rope_cos: Opt, norm_type: I64, norm_added_type: I64, rope_type: I64, concat_order: I64, eps: F64, is_training: Bool, query_output: OutC, key_output: OutC, value_output: OutC, norm_query_mean: OptOutC, norm_query_rstd: OptOutC, norm_key_mean: OptOutC, norm_key_rstd: OptOutC, norm_added_query_mean: OptOutC, norm_added_query_rstd: OptOutC, norm_added_key_mean: OptOutC, norm_added_key_rstd: OptOutC);

            // attention
            FusedInferAttentionScore [transformer "8.1" sim] (query: In, key: InList, value: InList, pse_shift: Opt, atten_mask: Opt, actual_seq_lengths: OptInts, actual_seq_lengths_kv: OptInts, deq_scale1: Opt, quant_scale1: Opt, deq_scale2: Opt, quant_scale2: Opt, quant_offset2: Opt, antiquant_scale: Opt, antiquant_offset: Opt, block_table: Opt, query_padding_size: Opt, kv_padding_size: Opt, num_heads: I64, scale_value: F64, pre_tokens: I64, next_tokens: I64, input_layout: StrMut, num_key_value_heads: I64, sparse_mode: I64, inner_precise: I64, block_size: I64, antiquant_mode: I64, softmax_lse_flag: Bool, attention_out: OutC, softmax_lse: OptOutC);
            FusedInferAttentionScoreV2 [transformer "8.1" sim] (query: In, key: InList, value: InList, pse_shift: Opt, atten_mask: Opt, actual_seq_lengths: OptInts, actual_seq_lengths_kv: OptInts, deq_scale1: Opt, quant_scale1: Opt, deq_scale2: Opt, quant_scale2: Opt, quant_offset2: Opt, antiquant_scale: Opt, antiquant_offset: Opt, block_table: Opt, query_padding_size: Opt, kv_padding_size: Opt, key_antiquant_scale: Opt, key_antiquant_offset: Opt, value_antiquant_scale: Opt, value_antiquant_offset: Opt, key_shared_prefix: Opt, value_shared_prefix: Opt, actual_shared_prefix_len: OptInts, num_heads: I64, scale_value: F64, pre_tokens: I64, next_tokens: I64, input_layout: StrMut, num_key_value_heads: I64, sparse_mode: I64, inner_precise: I64, block_size: I64, antiquant_mode: I64, softmax_lse_flag: Bool, key_antiquant_mode: I64, value_antiquant_mode: I64, attention_out: OutC, softmax_lse: OptOutC);
            FusedInferAttentionScoreV3 [transformer "8.1" sim] (query: In, key: InList, value: InList, pse_shift: Opt, atten_mask: Opt, actual_seq_lengths: OptInts, actual_seq_lengths_kv: OptInts, deq_scale1: Opt, quant_scale1: Opt, deq_scale2: Opt, quant_scale2: Opt, quant_offset2: Opt, antiquant_scale: Opt, antiquant_offset: Opt, block_table: Opt, query_padding_size: Opt, kv_padding_size: Opt, key_antiquant_scale: Opt, key_antiquant_offset: Opt, value_antiquant_scale: Opt, value_antiquant_offset: Opt, key_shared_prefix: Opt, value_shared_prefix: Opt, actual_shared_prefix_len: OptInts, query_rope: Opt, key_rope: Opt, key_rope_antiquant_scale: Opt, num_heads: I64, scale_value: F64, pre_tokens: I64, next_tokens: I64, input_layout: StrMut, num_key_value_heads: I64, sparse_mode: I64, inner_precise: I64, block_size: I64, antiquant_mode: I64, softmax_lse_flag: Bool, key_antiquant_mode: I64, value_antiquant_mode: I64, attention_out: OutC, softmax_lse: OptOutC);
            FusedInferAttentionScoreV4 [transformer "9.1" sim] (query: In, key: InList, value: InList, pse_shift: Opt, atten_mask: Opt, actual_seq_lengths: OptInts, actual_seq_lengths_kv: OptInts, deq_scale1: Opt, quant_scale1: Opt, deq_scale2: Opt, quant_scale2: Opt, quant_offset2: Opt, antiquant_scale: Opt, antiquant_offset: Opt, block_table: Opt, query_padding_size: Opt, kv_padding_size: Opt, key_antiquant_scale: Opt, key_antiquant_offset: Opt, value_antiquant_scale: Opt, value_antiquant_offset: Opt, key_shared_prefix: Opt, value_shared_prefix: Opt, actual_shared_prefix_len: OptInts, query_rope: Opt, key_rope: Opt, key_rope_antiquant_scale: Opt, dequant_scale_query: Opt, learnable_sink: Opt, num_heads: I64, scale_value: F64, pre_tokens: I64, next_tokens: I64, input_layout: StrMut, num_key_value_heads: I64, sparse_mode: I64, inner_precise: I64, block_size: I64, antiquant_mode: I64, softmax_lse_flag: Bool, key_antiquant_mode: I64, value_antiquant_mode: I64, query_quant_mode: I64, attention_out: OutC, softmax_lse: OptOutC);
            FusedInferAttentionScoreV5 [transformer "9.1" sim] (query: In, key: InList, value: InList, pse_shift: Opt, atten_mask: Opt, actual_seq_lengths: OptInts, actual_seq_lengths_kv: OptInts, deq_scale1: Opt, quant_scale1: Opt, deq_scale2: Opt, quant_scale2: Opt, quant_offset2: Opt, antiquant_scale: Opt, antiquant_offset: Opt, block_table: Opt, query_padding_size: Opt, kv_padding_size: Opt, key_antiquant_scale: Opt, key_antiquant_offset: Opt, value_antiquant_scale: Opt, value_antiquant_offset: Opt, key_shared_prefix: Opt, value_shared_prefix: Opt, actual_shared_prefix_len: OptInts, query_rope: Opt, key_rope: Opt, key_rope_antiquant_scale: Opt, dequant_scale_query: Opt, learnable_sink: Opt, q_start_idx: OptInts, kv_start_idx: OptInts, num_heads: I64, scale_value: F64, pre_tokens: I64, next_tokens: I64, input_layout: StrMut, num_key_value_heads: I64, sparse_mode: I64, inner_precise: I64, block_size: I64, antiquant_mode: I64, softmax_lse_flag: Bool, key_antiquant_mode: I64, value_antiquant_mode: I64, query_quant_mode: I64, pse_type: I64, attention_out: OutC, softmax_lse: OptOutC);
            IncreFlashAttention [transformer "8.1" sim] (query: In, key: InList, value: InList, pse_shift: Opt, atten_mask: Opt, actual_seq_lengths: OptInts, num_heads: I64, scale_value: F64, input_layout: StrMut, num_key_value_heads: I64, attention_out: OutC);
            IncreFlashAttentionV4 [transformer "8.1" sim] (query: In, key: InList, value: InList, pse_shift: Opt, atten_mask: Opt, actual_seq_lengths: OptInts, dequant_scale1: Opt, quant_scale1: Opt, dequant_scale2: Opt, quant_scale2: Opt, quant_offset2: Opt, antiquant_scale: Opt, antiquant_offset: Opt, blocktable: Opt, kv_padding_size: Opt, num_heads: I64, scale_value: F64, input_layout: StrMut, num_key_value_heads: I64, block_size: I64, inner_precise: I64, attention_out: OutC);
            PromptFlashAttention [transformer "8.1" sim] (query: In, key: In, value: In, pse_shift: Opt, atten_mask: Opt, actual_seq_lengths: OptInts, num_heads: I64, scale_value: F64, pre_tokens: I64, next_tokens: I64, input_layout: StrMut, num_key_value_heads: I64, attention_out: OutC);
            PromptFlashAttentionV3 [transformer "8.1" sim] (query: In, key: In, value: In, pse_shift: Opt, atten_mask: Opt, actual_seq_lengths: OptInts, actual_seq_lengths_kv: OptInts, deq_scale1: Opt, quant_scale1: Opt, deq_scale2: Opt, quant_scale2: Opt, quant_offset2: Opt, num_heads: I64, scale_value: F64, pre_tokens: I64, next_tokens: I64, input_layout: StrMut, num_key_value_heads: I64, sparse_mode: I64, inner_precise: I64, attention_out: OutC);
            FlashAttentionScore [transformer "8.1" sim] (query: In, key: In, value: In, real_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, prefix: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, softmax_max_out: OutC, softmax_sum_out: OutC, softmax_out_out: OptOutC, attention_out_out: OutC);
            FlashAttentionScoreV2 [transformer "8.1" sim] (query: In, key: In, value: In, real_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, prefix: OptInts, q_start_idx: OptInts, kv_start_idx: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, pse_type: I64, softmax_max_out: OutC, softmax_sum_out: OutC, softmax_out_out: OptOutC, attention_out_out: OutC);
            FlashAttentionScoreV3 [transformer "9.1" sim] (query: In, key: In, value: In, real_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, sink: Opt, prefix: OptInts, q_start_idx: OptInts, kv_start_idx: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, pse_type: I64, softmax_max_out: OutC, softmax_sum_out: OutC, softmax_out_out: OptOutC, attention_out_out: OutC);
            FlashAttentionVarLenScore [transformer "8.1" sim] (query: In, key: In, value: In, real_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, prefix: OptInts, actual_seq_q_len: OptInts, actual_seq_kv_len: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, softmax_max_out: OutC, softmax_sum_out: OutC, softmax_out_out: OptOutC, attention_out_out: OutC);
            FlashAttentionVarLenScoreV2 [transformer "8.1" sim] (query: In, key: In, value: In, real_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, prefix: OptInts, actual_seq_q_len: OptInts, actual_seq_kv_len: OptInts, q_start_idx: OptInts, kv_start_idx: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, pse_type: I64, softmax_max_out: OutC, softmax_sum_out: OutC, softmax_out_out: OptOutC, attention_out_out: OutC);
            FlashAttentionVarLenScoreV5 [transformer "9.1" refuse] (query: In, query_rope: In, key: In, key_rope: In, value: In, real_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, sink: Opt, prefix: OptInts, actual_seq_q_len: OptInts, actual_seq_kv_len: OptInts, q_start_idx: OptInts, kv_start_idx: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, pse_type: I64, softmax_out_layout: StrMut, softmax_max_out: OutC, softmax_sum_out: OutC, softmax_out_out: OutC, attention_out_out: OutC);
            FlashAttentionScoreGrad [transformer "8.1" sim] (query: In, key_in: In, value: In, dy: In, pse_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, softmax_max: Opt, softmax_sum: Opt, softmax_in: Opt, attention_in: Opt, prefix: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, dq_out: OutC, dk_out: OutC, dv_out: OutC, dpse_out: OptOutC);
            FlashAttentionScoreGradV2 [transformer "8.1" sim] (query: In, key_in: In, value: In, dy: In, pse_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, softmax_max: Opt, softmax_sum: Opt, softmax_in: Opt, attention_in: Opt, prefix: OptInts, q_start_idx: OptInts, kv_start_idx: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, pse_type: I64, dq_out: OutC, dk_out: OutC, dv_out: OutC, dpse_out: OptOutC);
            FlashAttentionUnpaddingScoreGrad [transformer "8.1" sim] (query: In, key_in: In, value: In, dy: In, pse_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, softmax_max: Opt, softmax_sum: Opt, softmax_in: Opt, attention_in: Opt, prefix: OptInts, actual_seq_q_len: OptInts, actual_seq_kv_len: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, dq_out: OutC, dk_out: OutC, dv_out: OutC, dpse_out: OptOutC);
            FlashAttentionUnpaddingScoreGradV2 [transformer "8.1" sim] (query: In, key_in: In, value: In, dy: In, pse_shift: Opt, drop_mask: Opt, padding_mask: Opt, atten_mask: Opt, softmax_max: Opt, softmax_sum: Opt, softmax_in: Opt, attention_in: Opt, prefix: OptInts, actual_seq_q_len: OptInts, actual_seq_kv_len: OptInts, q_start_idx: OptInts, kv_start_idx: OptInts, scale_value: F64, keep_prob: F64, pre_tokens: I64, next_tokens: I64, head_num: I64, input_layout: StrMut, inner_precise: I64, sparse_mode: I64, pse_type: I64, dq_out: OutC, dk_out: OutC, dv_out: OutC, dpse_out: OptOutC);
            MlaProlog [transformer "8.1" sim] (token_x: In, weight_dq: In, weight_uq_qr: In, weight_uk: In, weight_dkv_kr: In, rmsnorm_gamma_cq: In, rmsnorm_gamma_ckv: In, rope_sin: In, rope_cos: In, cache_index: In, kv_cache_ref: Ref, kr_cache_ref: Ref, dequant_scale_x: Opt, dequant_scale_w_dq: Opt, dequant_scale_w_uq_qr: Opt, dequant_scale_w_dkv_kr: Opt, quant_scale_ckv: Opt, quant_scale_ckr: Opt, smooth_scales_cq: Opt, rmsnorm_epsilon_cq: F64, rmsnorm_epsilon_ckv: F64, cache_mode: OptStrMut, query_out: OutC, query_rope_out: OutC);
            MlaPrologV2WeightNz [transformer "9.1" sim] (token_x: In, weight_dq: In, weight_uq_qr: In, weight_uk: In, weight_dkv_kr: In, rmsnorm_gamma_cq: In, rmsnorm_gamma_ckv: In, rope_sin: In, rope_cos: In, cache_index: In, kv_cache_ref: Ref, kr_cache_ref: Ref, dequant_scale_x: Opt, dequant_scale_w_dq: Opt, dequant_scale_w_uq_qr: Opt, dequant_scale_w_dkv_kr: Opt, quant_scale_ckv: Opt, quant_scale_ckr: Opt, smooth_scales_cq: Opt, rmsnorm_epsilon_cq: F64, rmsnorm_epsilon_ckv: F64, cache_mode: OptStrMut, query_out: OutC, query_rope_out: OutC, dequant_scale_q_nope_out: OptOutC);
            MlaPrologV3WeightNz [transformer "9.1" sim] (token_x: In, weight_dq: In, weight_uq_qr: In, weight_uk: In, weight_dkv_kr: In, rmsnorm_gamma_cq: In, rmsnorm_gamma_ckv: In, rope_sin: In, rope_cos: In, kv_cache_ref: Ref, kr_cache_ref: Ref, cache_index: Opt, dequant_scale_x: Opt, dequant_scale_w_dq: Opt, dequant_scale_w_uq_qr: Opt, dequant_scale_w_dkv_kr: Opt, quant_scale_ckv: Opt, quant_scale_ckr: Opt, smooth_scales_cq: Opt, actual_seq_len: Opt, k_nope_clip_alpha: Opt, rmsnorm_epsilon_cq: F64, rmsnorm_epsilon_ckv: F64, cache_mode: OptStrMut, weight_quant_mode: I64, kv_cache_quant_mode: I64, query_quant_mode: I64, ckvkr_repo_mode: I64, quant_scale_repo_mode: I64, tile_size: I64, qc_qr_scale: F64, kc_scale: F64, query_out: OutC, query_rope_out: OutC, dequant_scale_q_nope_out: OptOutC, query_norm_out: OptOutC, dequant_scale_q_norm_out: OptOutC);

            // moe
            MoeGatingTopK [transformer "9.1" sim] (x: In, bias: Opt, k: I64, k_group: I64, group_count: I64, group_select_mode: I64, renorm: I64, norm_type: I64, out_flag: Bool, routed_scaling_factor: F64, eps: F64, y_out: OutC, expert_idx_out: OutC, out_out: OptOutC);
            MoeGatingTopKSoftmax [transformer "8.1" sim] (x: In, finished: Opt, k: I64, y_out: OutC, expert_idx_out: OutC, row_idx_out: OutC);
            MoeGatingTopKSoftmaxV2 [transformer "8.1" sim] (x: In, finished: Opt, k: I64, renorm: I64, output_softmax_result_flag: Bool, y_out: OutC, expert_idx_out: OutC, softmax_result_out: OptOutC);
            MoeInitRouting [transformer "8.1" sim] (x: In, row_idx: In, expert_idx: In, active_num: I64, expanded_x_out: OutC, expanded_row_idx_out: OutC, expanded_expert_idx_out: OutC);
            MoeInitRoutingV2 [transformer "8.1" sim] (x: In, expert_idx: In, active_num: I64, expert_capacity: I64, expert_num: I64, drop_pad_mode: I64, expert_tokens_count_or_cumsum_flag: I64, expert_tokens_before_capacity_flag: Bool, expanded_x_out: OutC, expanded_row_idx_out: OutC, expert_tokens_count_or_cumsum_out: OptOutC, expert_tokens_before_capacity_out: OptOutC);
            MoeInitRoutingV3 [transformer "9.1" sim] (x: In, expert_idx: In, scale: Opt, offset: Opt, active_num: I64, expert_capacity: I64, expert_num: I64, drop_pad_mode: I64, expert_tokens_num_type: I64, expert_tokens_num_flag: Bool, quant_mode: I64, active_expert_range: OptInts, row_idx_type: I64, expanded_x_out: OutC, expanded_row_idx_out: OutC, expert_tokens_count_or_cumsum_out: OutC, expanded_scale_out: OptOutC);
            MoeFinalizeRouting [transformer "8.1" sim] (expanded_x: In, x1: In, x2: Opt, bias: In, scales: In, expanded_row_idx: In, expanded_expert_idx: In, out: OutC);
            MoeFinalizeRoutingV2 [transformer "8.1" sim] (expanded_x: In, expanded_row_idx: In, x1: Opt, x2: Opt, bias: Opt, scales: Opt, expert_idx: Opt, drop_pad_mode: I64, out: OutC);
            MoeTokenPermute [transformer "8.1" sim] (tokens: In, indices: In, num_out_tokens: I64, padded_mode: Bool, permute_tokens_out: OutC, sorted_indices_out: OutC);
            MoeTokenUnpermute [transformer "8.1" sim] (permuted_tokens: In, sorted_indices: In, probs: Opt, padded_mode: Bool, restore_shape: OptInts, out: OutC);
            MoeTokenPermuteGrad [transformer "8.1" sim] (permuted_output_grad: In, sorted_indices: In, num_topk: I64, padded_mode: Bool, out: OutC);
            MoeTokenUnpermuteGrad [transformer "8.1" sim] (permuted_tokens: In, unpermuted_tokens_grad: In, sorted_indices: In, probs: Opt, padded_mode: Bool, restore_shape: OptInts, permuted_tokens_grad_out: OutC, probs_grad_out: OptOutC);
            MoeComputeExpertTokens [transformer "8.1" sim] (sorted_experts: In, num_experts: I64, out: OutC);
            GroupedMatmul [transformer "8.1" sim] (x: InList, weight: InList, bias: OptInList, scale: OptInList, offset: OptInList, antiquant_scale: OptInList, antiquant_offset: OptInList, group_list: OptInts, split_item: I64, y: OutListC);
            GroupedMatmulV4 [transformer "8.1" sim] (x: InList, weight: InList, bias: OptInList, scale: OptInList, offset: OptInList, antiquant_scale: OptInList, antiquant_offset: OptInList, per_token_scale: OptInList, group_list: Opt, activation_input: OptInList, activation_quant_scale: OptInList, activation_quant_offset: OptInList, split_item: I64, group_type: I64, group_list_type: I64, act_type: I64, out: OutList, activation_feature_out: OptOutList, dyn_quant_scale_out: OptOutList);
            GroupedMatmulV5 [transformer "9.1" sim] (x: InList, weight: InList, bias: OptInList, scale: OptInList, offset: OptInList, antiquant_scale: OptInList, antiquant_offset: OptInList, per_token_scale: OptInList, group_list: Opt, activation_input: OptInList, activation_quant_scale: OptInList, activation_quant_offset: OptInList, split_item: I64, group_type: I64, group_list_type: I64, act_type: I64, tuning_config: OptIntsMut, out: OutList, activation_feature_out: OptOutList, dyn_quant_scale_out: OptOutList);
            GroupedMatmulWeightNz [transformer "9.1" refuse] (x: InList, weight: InList, bias: OptInList, scale: OptInList, offset: OptInList, antiquant_scale: OptInList, antiquant_offset: OptInList, per_token_scale: OptInList, group_list: Opt, activation_input: OptInList, activation_quant_scale: OptInList, activation_quant_offset: OptInList, split_item: I64, group_type: I64, group_list_type: I64, act_type: I64, tuning_config: OptIntsMut, quant_group_size: I64, out: OutList, activation_feature_out: OptOutList, dyn_quant_scale_out: OptOutList);
            GroupedMatmulSwigluQuant [transformer "8.1" refuse] (x: In, weight: In, bias: In, offset: In, weight_scale: In, x_scale: In, group_list: In, output: Out, output_scale: Out, output_offset: Out);
            MoeDistributeDispatch [transformer "8.1" refuse] (x: In, expert_ids: In, scales: In, x_active_mask: In, expert_scales: In, group_ep: Str, ep_world_size: I64, ep_rank_id: I64, moe_expert_num: I64, group_tp: Str, tp_world_size: I64, tp_rank_id: I64, expert_shard_type: I64, shared_expert_num: I64, shared_expert_rank_num: I64, quant_mode: I64, global_bs: I64, expert_token_nums_type: I64, expand_x: Out, dynamic_scales: Out, expand_idx: Out, expert_token_nums: Out, ep_recv_counts: Out, tp_recv_counts: Out, expand_scales: Out);
            MoeDistributeDispatchV2 [transformer "9.1" refuse] (x: In, expert_ids: In, scales: Opt, x_active_mask: Opt, expert_scales: Opt, group_ep: Str, ep_world_size: I64, ep_rank_id: I64, moe_expert_num: I64, group_tp: Str, tp_world_size: I64, tp_rank_id: I64, expert_shard_type: I64, shared_expert_num: I64, shared_expert_rank_num: I64, quant_mode: I64, global_bs: I64, expert_token_nums_type: I64, comm_alg: Str, expand_x_out: Out, dynamic_scales_out: Out, assist_info_for_combine_out: Out, expert_token_nums_out: Out, ep_recv_counts_out: Out, tp_recv_counts_out: Out, expand_scales_out: Out);
            MoeDistributeDispatchV4 [transformer "9.1" refuse] (x: In, expert_ids: In, scales: Opt, x_active_mask: Opt, expert_scales: Opt, elastic_info: Opt, performance_info: Opt, group_ep: Str, ep_world_size: I64, ep_rank_id: I64, moe_expert_num: I64, group_tp: Str, tp_world_size: I64, tp_rank_id: I64, expert_shard_type: I64, shared_expert_num: I64, shared_expert_rank_num: I64, quant_mode: I64, global_bs: I64, expert_token_nums_type: I64, comm_alg: Str, zero_expert_num: I64, copy_expert_num: I64, const_expert_num: I64, expand_x_out: Out, dynamic_scales_out: Out, assist_info_for_combine_out: Out, expert_token_nums_out: Out, ep_recv_counts_out: Out, tp_recv_counts_out: Out, expand_scales_out: Out);
            MoeDistributeCombine [transformer "8.1" refuse] (expand_x: In, expert_ids: In, expand_idx: In, ep_send_counts: In, expert_scales: In, tp_send_counts: In, x_active_mask: In, activation_scale: In, weight_scale: In, group_list: In, expand_scales: In, group_ep: Str, ep_world_size: I64, ep_rank_id: I64, moe_expert_num: I64, group_tp: Str, tp_world_size: I64, tp_rank_id: I64, expert_shard_type: I64, shared_expert_num: I64, shared_expert_rank_num: I64, global_bs: I64, out_dtype: I64, comm_quant_mode: I64, group_list_type: I64, x: Out);
            MoeDistributeCombineV2 [transformer "9.1" refuse] (expand_x: In, expert_ids: In, assist_info_for_combine: In, ep_send_counts: In, expert_scales: In, tp_send_counts: Opt, x_active_mask: Opt, activation_scale: Opt, weight_scale: Opt, group_list: Opt, expand_scales: Opt, shared_expert_x: Opt, group_ep: Str, ep_world_size: I64, ep_rank_id: I64, moe_expert_num: I64, group_tp: Str, tp_world_size: I64, tp_rank_id: I64, expert_shard_type: I64, shared_expert_num: I64, shared_expert_rank_num: I64, global_bs: I64, out_dtype: I64, comm_quant_mode: I64, group_list_type: I64, comm_alg: Str, x_out: Out);
            MoeDistributeCombineV4 [transformer "9.1" refuse] (expand_x: In, expert_ids: In, assist_info_for_combine: In, ep_send_counts: In, expert_scales: In, tp_send_counts: Opt, x_active_mask: Opt, activation_scale: Opt, weight_scale: Opt, group_list: Opt, expand_scales: Opt, shared_expert_x: Opt, elastic_info: Opt, ori_x: Opt, const_expert_alpha1: Opt, const_expert_alpha2: Opt, const_expert_v: Opt, performance_info: Opt, group_ep: Str, ep_world_size: I64, ep_rank_id: I64, moe_expert_num: I64, group_tp: Str, tp_world_size: I64, tp_rank_id: I64, expert_shard_type: I64, shared_expert_num: I64, shared_expert_rank_num: I64, global_bs: I64, out_dtype: I64, comm_quant_mode: I64, group_list_type: I64, comm_alg: Str, zero_expert_num: I64, copy_expert_num: I64, const_expert_num: I64, x_out: Out);

            // quant
            DynamicQuant [nn "8.1" sim] (x: In, smooth_scales: Opt, y_out: OutC, scale_out: OutC);
            DynamicQuantV2 [nn "8.1" refuse] (x: In, smooth_scales: Opt, group_index: Opt, dst_type: I64, y_out: OutC, scale_out: OutC, offset_out: OutC);
            AscendQuant [nn "8.1" refuse] (x: In, scale: In, offset: In, sqrt_mode: Bool, round_mode: Str, dst_type: I32, y: OutC);
            AscendAntiQuant [nn "8.1" refuse] (x: In, scale: In, offset: In, dst_type: I64, sqrt_mode: Bool, y: OutC);
            QuantMatmul [nn "8.1" refuse] (x1: In, x2: In, bias: In, deq_scale: F32, out: Out);
            QuantMatmulV3 [nn "8.1" refuse] (x1: In, x2: In, scale: In, offset: In, bias: In, transpose_x1: Bool, transpose_x2: Bool, out: OutC);
            QuantMatmulV4 [nn "8.1" refuse] (x1: In, x2: In, scale: In, offset: In, pertoken_scale: Opt, bias: In, transpose_x1: Bool, transpose_x2: Bool, out: OutC);
            QuantMatmulV5 [nn "9.1" refuse] (x1: In, x2: In, x1_scale: In, x2_scale: In, y_scale: In, x1_offset: In, x2_offset: In, y_offset: In, bias: In, transpose_x1: Bool, transpose_x2: Bool, group_size: I64, out: Out);
            WeightQuantBatchMatmul [nn "8.1" refuse] (x1: In, x2: In, diagonal_matrix: In, deq_offset: In, deq_scale: In, add_offset: In, mul_scale: In, bias: In, transpose_x1: Bool, transpose_x2: Bool, antiquant_scale: F32, antiquant_offset: F32, out: Out);
            WeightQuantBatchMatmulV2 [nn "8.1" refuse] (x: In, weight: In, antiquant_scale: In, antiquant_offset: Opt, quant_scale: Opt, quant_offset: Opt, bias: Opt, antiquant_group_size: Int, y: OutC);
            WeightQuantBatchMatmulV3 [nn "8.1" refuse] (x: In, weight: In, antiquant_scale: In, antiquant_offset: Opt, quant_scale: Opt, quant_offset: Opt, bias: Opt, antiquant_group_size: Int, inner_precise: Int, y: OutC);
            AllGatherMatmul [transformer "8.1" refuse] (x1: In, x2: In, bias: In, group: Str, gather_index: I64, comm_turn: I64, stream_mode: I64, output: In, gather_out: OutC);
            MatmulReduceScatter [transformer "8.1" refuse] (x1: In, x2: In, bias: In, group: Str, reduce_op: Str, comm_turn: I64, stream_mode: I64, output: In);
            MatmulAllReduce [transformer "8.1" refuse] (x1: In, x2: In, bias: In, group: Str, reduce_op: Str, comm_turn: I64, stream_mode: I64, output: In);

            // optim
            ApplyAdamW [nn "9.1" sim] (var_ref: Ref, m_ref: Ref, v_ref: Ref, beta1_power: In, beta2_power: In, lr: In, weight_decay: In, beta1: In, beta2: In, eps: In, grad: In, max_grad_norm: Opt, amsgrad: Bool, maximize: Bool);
            ApplyAdamWV2 [nn "8.1" sim] (var_ref: Ref, m_ref: Ref, v_ref: Ref, max_grad_norm_ref: OptRef, grad: In, step: In, lr: F32, beta1: F32, beta2: F32, weight_decay: F32, eps: F32, amsgrad: Bool, maximize: Bool);
            ForeachAddScalar [nn "8.1" sim] (x: InList, scalar: In, out: OutListC);
            ForeachMulScalar [nn "8.1" sim] (x: InList, scalar: In, out: OutListC);
            ForeachNorm [nn "8.1" sim] (x: InList, scalar: Scalar, out: OutListC);
            ForeachAddList [nn "8.1" sim] (x1: InList, x2: InList, alpha: In, out: OutListC);
            ForeachMulScalarV2 [nn "8.1" sim] (x: InList, scalar: Scalar, out: OutList);
        }
    };
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $ty:ty;)*) => {
        /// The kinds of parameter that an operator's first phase takes. Each is the C type that the headers declare; the
        /// distinct names say which way data flows, which the C type alone does not (many outputs are declared `const`).
        pub mod kind {
            use crate::enums::aclDataType;
            use crate::types::*;
            use std::ffi::{c_char, c_int};
            $($(#[$doc])* pub type $name = $ty;)*
        }

        /// Every kind with its type, for the test that compares the operators with the published interface.
        pub const KINDS: &[(&str, &str)] = &[$((stringify!($name), stringify!($ty))),*];
    };
}

kinds! {
    /// Input tensor.
    In = *const aclTensor;
    /// Input tensor that may be null.
    Opt = *const aclTensor;
    /// Output tensor.
    Out = *mut aclTensor;
    /// Output tensor that the header declares `const`.
    OutC = *const aclTensor;
    /// Output tensor that may be null.
    OptOut = *mut aclTensor;
    /// Output tensor that the header declares `const` and that may be null.
    OptOutC = *const aclTensor;
    /// Tensor that is read and written in place.
    Ref = *mut aclTensor;
    /// Tensor that is read and written in place and may be null.
    OptRef = *mut aclTensor;
    /// List of input tensors.
    InList = *const aclTensorList;
    /// List of input tensors that may be null.
    OptInList = *const aclTensorList;
    /// List of output tensors.
    OutList = *mut aclTensorList;
    /// List of output tensors that may be null.
    OptOutList = *mut aclTensorList;
    /// List of output tensors that the header declares `const`.
    OutListC = *const aclTensorList;
    /// Host scalar.
    Scalar = *const aclScalar;
    /// Host scalar that may be null.
    OptScalar = *const aclScalar;
    /// List of host scalars.
    Scalars = *const aclScalarList;
    /// Host array of 64-bit integers.
    Ints = *const aclIntArray;
    /// Host array of 64-bit integers that may be null.
    OptInts = *const aclIntArray;
    /// Host array of 64-bit integers that the operator fills.
    IntsMut = *mut aclIntArray;
    /// Host array of 64-bit integers that the header declares without `const` and that may be null; operators only read it.
    OptIntsMut = *mut aclIntArray;
    /// Host array of booleans.
    Bools = *const aclBoolArray;
    /// Host array of booleans that may be null.
    OptBools = *const aclBoolArray;
    /// Host array of 32-bit floats.
    Floats = *const aclFloatArray;
    /// Host array of 32-bit floats that may be null.
    OptFloats = *const aclFloatArray;
    /// C string.
    Str = *const c_char;
    /// C string that the header declares without `const`; operators only read it.
    StrMut = *mut c_char;
    /// C string that may be null.
    OptStr = *const c_char;
    /// C string without `const` that may be null.
    OptStrMut = *mut c_char;
    /// `int64_t`.
    I64 = i64;
    /// `int32_t`.
    I32 = i32;
    /// `int`.
    Int = c_int;
    /// `int8_t`.
    I8 = i8;
    /// `uint64_t`.
    U64 = u64;
    /// `uint32_t`.
    U32 = u32;
    /// `double`.
    F64 = f64;
    /// `float`.
    F32 = f32;
    /// `bool`.
    Bool = bool;
    /// `aclDataType`.
    DType = aclDataType;
}
