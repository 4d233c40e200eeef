"""The TorchScript operators that programs may use: pure and deterministic ones, in groups by their effect.

Names are those of ``torch.NAME`` and ``ops.NAMESPACE.NAME`` (written ``NAMESPACE::NAME``) in an archive's code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FRESH = _names(
    """
    __lshift__ __rshift__ _convolution _log_softmax _safe_softmax _scaled_dot_product_attention_math _softmax
    _unsafe_index _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d addbmm addcdiv addcmul addmm
    addmv addr all amax amin aminmax any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax
    argmin argsort asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d baddbmm bartlett_window
    batch_norm bilinear binary_cross_entropy binary_cross_entropy_with_logits bincount bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor blackman_window bmm bucketize cat
    cdist ceil celu clamp clamp_max clamp_min clip clone concat concatenate constant_pad_nd conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d convolution copysign cos cosh cosine_similarity
    count_nonzero cross cummax cummin cumprod cumsum deg2rad diag_embed digamma dist div divide dot elu
    embedding embedding_bag eq equal erf erfc erfinv exp exp2 expm1 eye fft_fft fft_fft2 fft_fftfreq fft_fftn
    fft_ifft fft_ifft2 fft_ifftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn
    float_power floor floor_divide fmax fmin fmod frac frobenius_norm full full_like gather ge gelu glu greater
    greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt hamming_window
    hann_window hardshrink hardsigmoid hardswish hardtanh heaviside huber_loss hypot i0 index index_add
    index_copy index_fill index_put index_select instance_norm isfinite isin isinf isnan isneginf isposinf
    kaiser_window kl_div kthvalue l1_loss layer_norm ldexp le leaky_relu lerp less less_equal lgamma
    linalg_cross linalg_det linalg_inv linalg_norm linalg_solve linalg_vector_norm linear linspace log log10
    log1p log2 log_sigmoid log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or
    logical_xor logit logspace logsumexp lstm lstm_cell lt masked_fill masked_scatter masked_select matmul max
    max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
    maximum mean median min minimum mish mm mse_loss mv nan_to_num nansum native_group_norm
    native_layer_norm ne neg negative new_full new_ones new_zeros nll_loss nonzero norm not_equal one_hot ones
    ones_like outer pairwise_distance polygamma pow prelu prod rad2deg reciprocal reflection_pad1d
    reflection_pad2d reflection_pad3d relu relu6 remainder renorm replication_pad1d replication_pad2d
    replication_pad3d rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell round rrelu rsqrt rsub
    scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted selu sgn sigmoid
    sign signbit silu sin sinc sinh smooth_l1_loss softmax softplus softshrink special_digamma special_entr
    special_erf special_erfc special_expit special_expm1 special_gammaln special_log1p special_log_ndtr
    special_ndtr special_xlogy sqrt square stack std std_mean sub subtract sum tan tanh tensor threshold topk
    tril tril_indices triu triu_indices true_divide trunc upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean
    vdot where xlogy zeros zeros_like
    """
)
"""Operators whose result is a new tensor, or several."""

FACTORIES = _names(
    """
    arange bartlett_window blackman_window eye fft_fftfreq fft_rfftfreq full hamming_window hann_window
    kaiser_window linspace logspace ones scalar_tensor tensor tril_indices triu_indices zeros
    """
)
"""Those of them that make a tensor of numbers."""

CONCATENATING = frozenset(("add", "mul", "multiply"))
"""Operators whose result is new; for lists, it has their elements."""

ALIASING = _names(
    """
    Bool Complex Float FloatImplicit Int IntImplicit ScalarImplicit Size __and__ __contains__ __derive_index
    __getitem__ __interpolate __not__ __or__ __range_length __round_to_zero_floordiv __xor__ _cast_Byte
    _cast_Char _cast_Double _cast_Float _cast_Int _cast_Long _cast_Short _native_multi_head_attention
    _pack_padded_sequence _pad_circular _pad_enum _pad_packed_sequence _shape_as_tensor _size_if_not_equal
    _to_copy _transformer_encoder_layer_fwd _trilinear _unique _unique2 _unsafe_view _unwrap_optional
    _weight_norm _weight_norm_interface adjoint affine_grid_generator alias allclose alpha_dropout
    alpha_dropout_ angle argwhere as_strided as_strided_scatter as_tensor atleast_1d atleast_2d atleast_3d
    block_diag bool broadcast_shapes broadcast_tensors broadcast_to cartesian_prod chain_matmul channel_shuffle
    chunk col2im column_stack combinations complex conj conj_physical contiguous copy corrcoef
    cosine_embedding_loss cov cpu cross_entropy_loss cumulative_trapezoid degrees det detach
    detach_copy diag diagflat diagonal diagonal_scatter dict diff divmod dropout dropout_ dsplit dstack einsum
    endswith expand expand_as fabs factorial feature_alpha_dropout feature_alpha_dropout_ feature_dropout
    feature_dropout_ fft_fftshift fft_hfft fft_ifftshift fft_ihfft fix flatten flip fliplr flipud float floordiv
    format fractional_max_pool2d fractional_max_pool3d gamma gcd ger get gradient hinge_embedding_loss histc
    hsplit hstack igamma igammac im2col imag index_reduce inner int inverse is_nonzero isclose isreal item items
    join keys kron lcm len linalg_cholesky linalg_diagonal linalg_eigh linalg_eigvalsh linalg_lu_factor
    linalg_lu_solve linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power linalg_multi_dot
    linalg_pinv linalg_qr linalg_slogdet linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals
    linalg_vander linalg_vecdot list log_sigmoid_forward logdet lower mH mT margin_ranking_loss mathremainder
    matrix_H matrix_exp matrix_power max_unpool2d max_unpool3d meshgrid mkldnn_convolution mkldnn_linear mode
    moveaxis movedim msort multi_margin_loss multilabel_margin_loss multilabel_margin_loss_forward mvlgamma
    nanmean nanmedian nanquantile narrow narrow_copy native_norm nextafter nll_loss2d nll_loss2d_forward
    nll_loss_forward nll_loss_nd nonzero_numpy nonzero_static norm_except_dim nuclear_norm numpy_T ord pad
    pad_sequence pdist permute pinverse pixel_shuffle pixel_unshuffle poisson_nll_loss polar positive
    promote_types quantile radians ravel real repeat repeat_interleave replace reshape reshape_as resolve_conj
    resolve_neg result_type roll rot90 row_stack select select_scatter slice slice_scatter slogdet
    soft_margin_loss sort sorted special_bessel_j0 special_bessel_j1 special_erfcx special_erfinv special_exp2
    special_gammainc special_gammaincc special_i0 special_i0e special_i1 special_i1e special_log_softmax
    special_logit special_logsumexp special_multigammaln special_ndtri special_polygamma special_psi
    special_round special_sinc special_softmax special_xlog1py special_zeta split split_with_sizes squeeze
    startswith str sum_to_size swapaxes swapdims t take take_along_dim tensor_split tensordot thnn_conv2d tile
    to to_dense trace transpose trapezoid trapz triplet_margin_loss tuple type_as unbind unflatten unfold
    unique_consecutive unique_dim unique_dim_consecutive unsafe_chunk unsafe_split unsafe_split_with_sizes
    unsqueeze upper values vander view view_as view_as_complex view_as_real vsplit vstack prim::NumToTensor
    prim::RaiseException prim::TupleIndex prim::TupleUnpack prim::abs prim::data prim::index prim::max prim::min
    prim::rangelist prim::tolist prim::unchecked_cast prim::unchecked_unwrap_optional
    """
)
"""Operators whose result may be, or contain, an argument or a view of one."""

LISTING = _names(
    """
    __getitem__ broadcast_tensors chunk dsplit get gradient hsplit items keys list meshgrid nonzero_numpy sorted
    split split_with_sizes tensor_split tuple unbind unsafe_chunk unsafe_split unsafe_split_with_sizes values
    vsplit
    """
)
"""Those of them whose result is a list of such values."""

SHAPES = _names(
    """
    __is__ __isnot__ _get_tracing_state can_cast dense_dim device dim element_size get_device has_torch_function
    is_autocast_cpu_enabled is_autocast_enabled is_complex is_contiguous is_floating_point is_grad_enabled
    is_inference is_leaf is_same_size is_scripting is_signed is_sparse layout len numel size sparse_dim
    storage_offset stride sym_numel sym_size sym_stride prim::device prim::dtype prim::is_cpu prim::is_cuda
    prim::is_ipu prim::is_maia prim::is_meta prim::is_mkldnn prim::is_mps prim::is_mtia prim::is_nested
    prim::is_quantized prim::is_sparse prim::is_sparse_csr prim::is_vulkan prim::is_xla prim::is_xpu
    prim::itemsize prim::layout prim::name prim::nbytes prim::requires_grad prim::type
    """
)
"""Operators whose result depends on no values in tensors."""

SHAPE_ATTRIBUTES = _names(
    """
    device dtype is_cpu is_cuda is_leaf is_meta is_mkldnn is_mps is_nested is_quantized is_sparse is_sparse_csr
    is_xpu itemsize layout nbytes ndim requires_grad shape
    """
)
"""Attributes of tensors that depend on no values."""

TENSOR_WRITES = frozenset(
    f"{name}_"
    for name in _names(
        """
        abs acos acosh add addbmm addcdiv addcmul addmm addmv addr asin asinh atan atan2 atanh baddbmm
        bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip copy copysign
        cos cosh cumprod cumsum deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1 fill
        fill_diagonal fix float_power floor floor_divide fmod frac ge gelu greater greater_equal gt hardsigmoid
        hardswish hardtanh heaviside hypot i0 index_add index_copy index_fill index_put index_reduce le
        leaky_relu lerp less less_equal lgamma log log10 log1p log2 logical_and logical_not logical_or
        logical_xor logit lt masked_fill masked_scatter mish mul multiply nan_to_num ne neg negative nextafter
        not_equal pow rad2deg reciprocal relu relu6 remainder renorm round rrelu rsqrt scatter scatter_add
        scatter_reduce selu sgn sigmoid sign silu sin sinc sinh sqrt square sub subtract tan tanh threshold tril
        triu true_divide trunc xlogy zero
        """
    )
)
"""Operators that write into their first argument: allowed on tensors that the same call made."""

CONTAINER_WRITES = _names(
    """
    Delete _set_item append clear extend insert pop popitem remove setdefault update
    """
)
"""Operators that change a list or dict: allowed on those that the same call made."""

LIST_WRITES = frozenset(("reverse", "sort"))
"""Operators that write into a list, but not into a tensor."""

STEERING = _names(
    """
    _pack_padded_sequence _pad_packed_sequence _unique _unique2 _unsafe_index argwhere bincount index
    masked_select nonzero nonzero_numpy one_hot repeat_interleave tensor_split unique_consecutive unique_dim
    unique_dim_consecutive
    """
)
"""Operators whose output's size follows from values."""

SCALARS = _names(
    """
    Bool Complex Float FloatImplicit Int IntImplicit ScalarImplicit allclose bool complex equal float int
    is_nonzero item prim::tolist
    """
)
"""Operators that turn values of tensors into numbers, which may steer anything."""


@dataclass(frozen=True)
class Condition:
    """An argument, by position and name, that has to be ``value``, or any boolean if that is ``bool``.

    ``is_default``: leaving the argument out means this value.
    """

    position: int
    name: str
    value: Any
    is_default: bool = False


_TRAIN = (Condition(2, "train", False),)
_NO_DROPOUT = (Condition(1, "p", 0.0),)
_DROPOUT = (_TRAIN, _NO_DROPOUT)
_RECURRENT = tuple(
    (Condition(first, "has_biases", bool), condition)
    for first in (3, 4)  # the second form takes packed sequences
    for condition in (Condition(first + 2, "dropout", 0.0), Condition(first + 3, "train", False))
)
_NO_STATISTICS = (Condition(3, "running_mean", None), Condition(4, "running_var", None))

RANDOM_UNLESS: Mapping[str, tuple[tuple[Condition, ...], ...]] = {
    **{
        f"{kind}{suffix}": _DROPOUT
        for kind in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
        for suffix in ("", "_")
    },
    **dict.fromkeys(("gru", "lstm", "rnn_relu", "rnn_tanh"), _RECURRENT),
    "batch_norm": ((Condition(5, "training", False),), _NO_STATISTICS),
    "instance_norm": ((Condition(5, "use_input_stats", False),), _NO_STATISTICS),
    "rrelu": ((Condition(3, "training", False, is_default=True),),),
    "rrelu_": ((Condition(3, "training", False, is_default=True),),),
    "scaled_dot_product_attention": ((Condition(4, "dropout_p", 0.0, is_default=True),),),
    "_scaled_dot_product_attention_math": ((Condition(4, "dropout_p", 0.0, is_default=True),),),
}
"""Operators that are pure only if all conditions of one alternative hold: no randomness, no new statistics."""

READING = FRESH | CONCATENATING | ALIASING | SHAPES | LIST_WRITES
"""All operators that may be used on any value."""

WRITING = TENSOR_WRITES | CONTAINER_WRITES
"""All operators that may be used on values that the same call made."""
