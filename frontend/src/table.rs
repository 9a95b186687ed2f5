//! The table of ONNX operators: which op of the IR each becomes.
//!
//! ```text
//! ("Relu", Same(Op::relu))       the IR's op takes the same operands and means the same
//! ("Gemm", By(matmul::gemm))     a function builds what it means
//! ```
//!
//! One entry serves all versions of an operator from opset 7 on; where versions differ, its function asks for
//! [`Site::opset`](crate::site::Site). Operator sets newer than [`NEWEST_OPSET`] are read by the newest rules.

use crate::import::sequence;
use crate::ops::{
    attention, conv, elementwise, found, gather, generate, loss, matmul, microsoft, ml, ngram, norm, pool, quantize, random, recurrent,
    reduce, resize, sample, shape, signal, slice, state, text, training,
};
use crate::site::{Outcome, Site};
use Importer::{By, Same};
use egret_ir::Op;

/// The oldest version of the standard operator set that is read.
pub(crate) const OLDEST_OPSET: i64 = 7;

/// The newest version of the standard operator set whose rules are known.
pub(crate) const NEWEST_OPSET: i64 = 28;

/// How an ONNX operator becomes nodes of the IR.
pub(crate) enum Importer {
    /// One op that takes the same operands and has no attributes in ONNX.
    Same(Op),
    /// What this function builds.
    By(fn(&mut Site) -> Outcome),
}

/// The importer of an operator; one of another domain is named with it, as in `com.microsoft::FusedMatMul`.
pub(crate) fn importer(operator: &str) -> Option<&'static Importer> {
    TABLE.iter().find(|(name, _)| *name == operator).map(|(_, importer)| importer)
}

/// The names of all operators that are supported.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name).chain(["If", "Loop", "Scan"]).chain(sequence::OPERATORS.iter().copied())
}

static TABLE: &[(&str, Importer)] = &[
    // ---- arithmetic
    ("Abs", Same(Op::abs)),
    ("Acos", Same(Op::acos)),
    ("Acosh", Same(Op::acosh)),
    ("Add", Same(Op::add)),
    ("Asin", Same(Op::asin)),
    ("Asinh", Same(Op::asinh)),
    ("Atan", Same(Op::atan)),
    ("Atanh", Same(Op::atanh)),
    ("Cast", By(elementwise::cast)),
    ("CastLike", By(elementwise::cast_like)),
    ("Ceil", Same(Op::ceil)),
    ("Clip", By(elementwise::clip)),
    ("Cos", Same(Op::cos)),
    ("Cosh", Same(Op::cosh)),
    ("Div", Same(Op::div)),
    ("Erf", Same(Op::erf)),
    ("Exp", Same(Op::exp)),
    ("Floor", Same(Op::floor)),
    ("Identity", By(elementwise::identity)),
    ("Log", Same(Op::log)),
    ("Max", By(elementwise::max)),
    ("Mean", By(elementwise::mean)),
    ("Min", By(elementwise::min)),
    ("Mod", By(elementwise::modulo)),
    ("Mul", Same(Op::mul)),
    ("Neg", Same(Op::neg)),
    ("Pow", By(elementwise::pow)),
    ("Reciprocal", Same(Op::reciprocal)),
    ("Round", Same(Op::round)),
    ("Sign", Same(Op::sign)),
    ("Sin", Same(Op::sin)),
    ("Sinh", Same(Op::sinh)),
    ("Sqrt", Same(Op::sqrt)),
    ("Sub", Same(Op::sub)),
    ("Sum", By(elementwise::sum)),
    ("Tan", Same(Op::tan)),
    ("Tanh", Same(Op::tanh)),
    // ---- comparison and logic
    ("And", Same(Op::and)),
    ("BitCast", By(elementwise::bit_cast)),
    ("BitShift", By(elementwise::bit_shift)),
    ("BitwiseAnd", Same(Op::and)),
    ("BitwiseNot", Same(Op::not)),
    ("BitwiseOr", Same(Op::or)),
    ("BitwiseXor", Same(Op::xor)),
    ("Equal", Same(Op::eq)),
    ("Greater", By(elementwise::greater)),
    ("GreaterOrEqual", By(elementwise::greater_or_equal)),
    ("IsInf", By(elementwise::is_inf)),
    ("IsNaN", Same(Op::is_nan)),
    ("Less", Same(Op::lt)),
    ("LessOrEqual", Same(Op::le)),
    ("Not", Same(Op::not)),
    ("Or", Same(Op::or)),
    ("Where", Same(Op::select)),
    ("Xor", Same(Op::xor)),
    // ---- activations
    ("Celu", By(elementwise::celu)),
    ("Dropout", By(elementwise::dropout)),
    ("Elu", By(elementwise::elu)),
    ("Gelu", By(elementwise::gelu)),
    ("HardSigmoid", By(elementwise::hard_sigmoid)),
    ("HardSwish", Same(Op::hard_swish)),
    ("Hardmax", By(norm::hardmax)),
    ("LeakyRelu", By(elementwise::leaky_relu)),
    ("LogSoftmax", By(norm::log_softmax)),
    ("Mish", Same(Op::mish)),
    ("PRelu", By(elementwise::prelu)),
    ("Relu", Same(Op::relu)),
    ("Selu", By(elementwise::selu)),
    ("Shrink", By(elementwise::shrink)),
    ("Sigmoid", Same(Op::sigmoid)),
    ("Softmax", By(norm::softmax)),
    ("Softplus", Same(Op::softplus)),
    ("Softsign", Same(Op::softsign)),
    ("SwiGLU", By(state::swiglu)),
    ("Swish", By(elementwise::swish)),
    ("ThresholdedRelu", By(elementwise::thresholded_relu)),
    // ---- shapes
    ("Concat", By(shape::concat)),
    ("DepthToSpace", By(shape::depth_to_space)),
    ("Expand", By(shape::expand)),
    ("Flatten", By(shape::flatten)),
    ("Reshape", By(shape::reshape)),
    ("Shape", By(shape::shape)),
    ("Size", By(shape::size)),
    ("SpaceToDepth", By(shape::space_to_depth)),
    ("Squeeze", By(shape::squeeze)),
    ("Tile", By(shape::tile)),
    ("Transpose", By(shape::transpose)),
    ("Unsqueeze", By(shape::unsqueeze)),
    // ---- parts
    ("CenterCropPad", By(slice::center_crop_pad)),
    ("Pad", By(slice::pad)),
    ("Slice", By(slice::slice)),
    ("Split", By(slice::split)),
    ("Trilu", By(slice::trilu)),
    // ---- indices
    ("Compress", By(found::compress)),
    ("Gather", By(gather::gather)),
    ("GatherElements", By(gather::gather_elements)),
    ("GatherND", By(gather::gather_nd)),
    ("NonMaxSuppression", By(found::non_max_suppression)),
    ("NonZero", By(found::non_zero)),
    ("OneHot", By(gather::one_hot)),
    ("ReverseSequence", By(gather::reverse_sequence)),
    ("Scatter", By(gather::scatter_elements)),
    ("ScatterElements", By(gather::scatter_elements)),
    ("ScatterND", By(gather::scatter_nd)),
    ("Unique", By(found::unique)),
    // ---- values out of nothing
    ("BlackmanWindow", By(generate::blackman_window)),
    ("Constant", By(generate::constant)),
    ("ConstantOfShape", By(generate::constant_of_shape)),
    ("EyeLike", By(generate::eye_like)),
    ("HammingWindow", By(generate::hamming_window)),
    ("HannWindow", By(generate::hann_window)),
    ("MelWeightMatrix", By(generate::mel_weight_matrix)),
    ("Range", By(generate::range)),
    // ---- reductions
    ("ArgMax", By(reduce::arg_max)),
    ("ArgMin", By(reduce::arg_min)),
    ("CumProd", By(reduce::cumprod)),
    ("CumSum", By(reduce::cumsum)),
    ("ReduceL1", By(reduce::l1)),
    ("ReduceL2", By(reduce::l2)),
    ("ReduceLogSum", By(reduce::log_sum)),
    ("ReduceLogSumExp", By(reduce::log_sum_exp)),
    ("ReduceMax", By(reduce::max)),
    ("ReduceMean", By(reduce::mean)),
    ("ReduceMin", By(reduce::min)),
    ("ReduceProd", By(reduce::prod)),
    ("ReduceSum", By(reduce::sum)),
    ("ReduceSumSquare", By(reduce::sum_square)),
    ("TopK", By(reduce::top_k)),
    // ---- normalisation
    ("BatchNormalization", By(norm::batch_normalization)),
    ("GroupNormalization", By(norm::group_normalization)),
    ("InstanceNormalization", By(norm::instance_normalization)),
    ("LRN", By(norm::lrn)),
    ("LayerNormalization", By(norm::layer_normalization)),
    ("LpNormalization", By(norm::lp_normalization)),
    ("MeanVarianceNormalization", By(norm::mean_variance_normalization)),
    ("RMSNormalization", By(norm::rms_normalization)),
    // ---- contraction
    ("Attention", By(attention::attention)),
    ("Col2Im", By(conv::col_to_im)),
    ("Conv", By(conv::conv)),
    ("ConvTranspose", By(conv::conv_transpose)),
    ("Det", By(matmul::determinant)),
    ("Einsum", By(matmul::einsum)),
    ("Gemm", By(matmul::gemm)),
    ("MatMul", Same(Op::matmul)),
    ("RotaryEmbedding", By(attention::rotary_embedding)),
    // ---- quantised
    ("ConvInteger", By(quantize::conv_integer)),
    ("DequantizeLinear", By(quantize::dequantize_linear)),
    ("DynamicQuantizeLinear", By(quantize::dynamic_quantize_linear)),
    ("MatMulInteger", By(quantize::matmul_integer)),
    ("QLinearConv", By(quantize::qlinear_conv)),
    ("QLinearMatMul", By(quantize::qlinear_matmul)),
    ("QuantizeLinear", By(quantize::quantize_linear)),
    // ---- losses
    ("NegativeLogLikelihoodLoss", By(loss::negative_log_likelihood)),
    ("SoftmaxCrossEntropyLoss", By(loss::softmax_cross_entropy)),
    // ---- images at computed places
    ("AffineGrid", By(sample::affine_grid)),
    ("DeformConv", By(sample::deform_conv)),
    ("GridSample", By(sample::grid_sample)),
    ("RoiAlign", By(sample::roi_align)),
    // ---- pooling
    ("AveragePool", By(pool::average_pool)),
    ("GlobalAveragePool", By(pool::global_average_pool)),
    ("GlobalLpPool", By(pool::global_lp_pool)),
    ("GlobalMaxPool", By(pool::global_max_pool)),
    ("LpPool", By(pool::lp_pool)),
    ("MaxPool", By(pool::max_pool)),
    ("MaxUnpool", By(pool::max_unpool)),
    ("Resize", By(resize::resize)),
    ("Upsample", By(resize::upsample)),
    // ---- signals
    ("DFT", By(signal::dft)),
    ("STFT", By(signal::stft)),
    // ---- states
    ("CausalConvWithState", By(state::causal_conv)),
    ("LinearAttention", By(state::linear_attention)),
    ("TensorScatter", By(state::tensor_scatter)),
    // ---- strings
    ("RegexFullMatch", By(text::regex_full_match)),
    ("StringConcat", By(text::concat)),
    ("StringNormalizer", By(text::normalizer)),
    ("StringSplit", By(text::split)),
    // ---- classical models
    ("TfIdfVectorizer", By(ngram::tfidf_vectorizer)),
    ("ai.onnx.ml::ArrayFeatureExtractor", By(ml::array_feature_extractor)),
    ("ai.onnx.ml::Binarizer", By(ml::binarizer)),
    ("ai.onnx.ml::CategoryMapper", By(ml::labels::category_mapper)),
    ("ai.onnx.ml::FeatureVectorizer", By(ml::feature_vectorizer)),
    ("ai.onnx.ml::Imputer", By(ml::imputer)),
    ("ai.onnx.ml::LabelEncoder", By(ml::labels::label_encoder)),
    ("ai.onnx.ml::LinearClassifier", By(ml::linear_classifier)),
    ("ai.onnx.ml::LinearRegressor", By(ml::linear_regressor)),
    ("ai.onnx.ml::Normalizer", By(ml::normalizer)),
    ("ai.onnx.ml::OneHotEncoder", By(ml::one_hot_encoder)),
    ("ai.onnx.ml::SVMClassifier", By(ml::vectors::svm_classifier)),
    ("ai.onnx.ml::SVMRegressor", By(ml::svm_regressor)),
    ("ai.onnx.ml::Scaler", By(ml::scaler)),
    ("ai.onnx.ml::TreeEnsemble", By(ml::trees::ensemble)),
    ("ai.onnx.ml::TreeEnsembleClassifier", By(ml::trees::classifier)),
    ("ai.onnx.ml::TreeEnsembleRegressor", By(ml::trees::regressor)),
    ("ai.onnx.ml::ZipMap", By(ml::zip_map)),
    // ---- steps of optimisers
    ("ai.onnx.preview.training::Adagrad", By(training::adagrad)),
    ("ai.onnx.preview.training::Adam", By(training::adam)),
    ("ai.onnx.preview.training::Momentum", By(training::momentum)),
    // ---- random numbers
    ("Bernoulli", By(random::bernoulli)),
    ("Multinomial", By(random::multinomial)),
    ("RandomNormal", By(random::random_normal)),
    ("RandomNormalLike", By(random::random_normal_like)),
    ("RandomUniform", By(random::random_uniform)),
    ("RandomUniformLike", By(random::random_uniform_like)),
    // ---- ONNX Runtime's own
    ("SimplifiedLayerNormalization", By(microsoft::simplified_layer_norm)),
    ("com.microsoft::Attention", By(microsoft::attention)),
    ("com.microsoft::BiasGelu", By(microsoft::bias_gelu)),
    ("com.microsoft::DequantizeLinear", By(quantize::dequantize_linear)),
    ("com.microsoft::DynamicQuantizeLSTM", By(microsoft::quantize::dynamic_quantize_lstm)),
    ("com.microsoft::DynamicQuantizeMatMul", By(microsoft::quantize::dynamic_quantize_matmul)),
    ("com.microsoft::EmbedLayerNormalization", By(microsoft::embed_layer_norm)),
    ("com.microsoft::FastGelu", By(microsoft::fast_gelu)),
    ("com.microsoft::FusedConv", By(microsoft::fused_conv)),
    ("com.microsoft::FusedMatMul", By(microsoft::fused_matmul)),
    ("com.microsoft::GatherND", By(gather::gather_nd)),
    ("com.microsoft::Gelu", By(microsoft::gelu)),
    ("com.microsoft::GroupQueryAttention", By(microsoft::grouped_query::attention)),
    ("com.microsoft::MatMulIntegerToFloat", By(microsoft::quantize::matmul_integer_to_float)),
    ("com.microsoft::MatMulNBits", By(microsoft::quantize::matmul_n_bits)),
    ("com.microsoft::MultiHeadAttention", By(microsoft::multi_head_attention)),
    ("com.microsoft::QAttention", By(microsoft::quantize::qattention)),
    ("com.microsoft::QGemm", By(microsoft::quantize::qgemm)),
    ("com.microsoft::QLinearAdd", By(microsoft::quantize::qlinear_add)),
    ("com.microsoft::QLinearAveragePool", By(microsoft::quantize::qlinear_average_pool)),
    ("com.microsoft::QLinearConcat", By(microsoft::quantize::qlinear_concat)),
    ("com.microsoft::QLinearGlobalAveragePool", By(microsoft::quantize::qlinear_global_average_pool)),
    ("com.microsoft::QLinearLeakyRelu", By(microsoft::quantize::qlinear_leaky_relu)),
    ("com.microsoft::QLinearMul", By(microsoft::quantize::qlinear_mul)),
    ("com.microsoft::QLinearSigmoid", By(microsoft::quantize::qlinear_sigmoid)),
    ("com.microsoft::QLinearSoftmax", By(microsoft::quantize::qlinear_softmax)),
    ("com.microsoft::QLinearWhere", By(microsoft::quantize::qlinear_where)),
    ("com.microsoft::QuantizeLinear", By(quantize::quantize_linear)),
    ("com.microsoft::QuickGelu", By(microsoft::quick_gelu)),
    ("com.microsoft::RotaryEmbedding", By(microsoft::rotary_embedding)),
    ("com.microsoft::SkipLayerNormalization", By(microsoft::skip_layer_norm)),
    ("com.microsoft::SkipSimplifiedLayerNormalization", By(microsoft::skip_simplified_layer_norm)),
    ("com.microsoft::TransposeMatMul", By(microsoft::fused_matmul)),
    ("com.microsoft::Trilu", By(slice::trilu)),
    // ---- recurrence
    ("GRU", By(recurrent::gru)),
    ("LSTM", By(recurrent::lstm)),
    ("RNN", By(recurrent::rnn)),
];

/// Families of standard operators that are not supported, each with what to do instead.
static UNSUPPORTED: &[(&[&str], &str)] = &[
    (&["ImageDecoder"], "images are not decoded; make the decoded tensor an input of the model"),
    (&["Gradient"], "training is not compiled; export the model for inference"),
];

/// What to do about a standard operator that is not supported; `None` for one that is not known at all.
pub(crate) fn unsupported(operator: &str) -> Option<&'static str> {
    UNSUPPORTED.iter().find(|(names, _)| names.contains(&operator)).map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_operator_stands_once() {
        let unsupported = UNSUPPORTED.iter().flat_map(|(names, _)| names.iter().copied());
        let all: Vec<&str> = names().chain(unsupported).collect();
        assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len());
    }

    #[test]
    fn plain_entries_have_no_attributes() {
        for (name, importer) in TABLE {
            if let Same(op) = importer {
                assert!(op.def().attrs.is_empty() && !op.def().variadic, "{name}");
            }
        }
    }
}
