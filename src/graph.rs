//! Graphs from files and text, and their meaning by the reference evaluator.
//!
//! **Invariant.** Tensors of the runtime and of the IR are the same bytes under the same type: a conversion copies and never
//! rounds.

use crate::artifact;
use crate::error::Error;
use egret_ir::text::Reader;
use egret_ir::{Bindings, Graph, TensorType};
use egret_runtime::Tensor;
use std::path::Path;

/// Reads a graph from a file of `.egir` text.
///
/// # Errors
///
/// [`Error::File`] if it cannot be read, or with the line that is wrong.
pub fn parse_file(path: impl AsRef<Path>) -> Result<Graph, Error> {
    let name = path.as_ref().display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| Error::File(format!("{name}: {error}")))?;
    parse_text(&name, &text)
}

/// Reads a graph from text; `name` stands in front of the line in messages.
///
/// # Errors
///
/// [`Error::File`] with the line that is wrong.
pub fn parse_text(name: &str, text: &str) -> Result<Graph, Error> {
    let graph = Reader::new(name).read(text).map_err(|error| Error::File(error.to_string()))?;
    egret_ir::verify::verify(&graph).map_err(|error| Error::File(format!("{name}: {error}")))?;
    Ok(graph)
}

/// The inputs that an ONNX file declares, in its order, without importing the rest; sequences and optional inputs have these lengths
/// (see [`lengths`]).
///
/// # Errors
///
/// [`Error::File`] if it is no model, [`Error::Unsupported`] if an input is not a tensor.
pub fn signature(path: impl AsRef<Path>, lengths: &Bindings) -> Result<Vec<(String, TensorType)>, Error> {
    let inputs = egret_frontend::inputs(path.as_ref(), lengths)?;
    Ok(inputs.into_iter().map(|(name, ty)| (name.to_string(), ty)).collect())
}

/// The names of the extents that say how long the input sequences of an ONNX file are, and which optional inputs are given: they have to be
/// numbers when it is imported.
///
/// # Errors
///
/// [`Error::File`] if it is no model.
pub fn lengths(path: impl AsRef<Path>) -> Result<Vec<String>, Error> {
    egret_frontend::lengths(path.as_ref()).map_err(|error| Error::File(error.to_string()))
}

/// The inputs of a graph, in its order.
pub fn inputs_of(graph: &Graph) -> Vec<(String, TensorType)> {
    let inputs = graph.params().iter().map(|&param| graph.value(param));
    inputs.map(|value| (value.name.to_string(), value.ty.clone())).collect()
}

/// The outputs of a graph by the reference evaluator, for inputs in the order of its parameters.
///
/// # Errors
///
/// [`Error::Usage`] if the inputs do not fit, or an index in them is out of range.
pub fn evaluate(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<egret_ir::Tensor>, Error> {
    let inputs: Vec<egret_ir::Tensor> = inputs.iter().map(to_ir).collect();
    egret_ir::eval::eval(graph, &inputs).map_err(Error::Usage)
}

/// The tensor as the IR has it.
///
/// # Panics
///
/// Never: a tensor has as many bytes as its type and shape say.
pub fn to_ir(tensor: &Tensor) -> egret_ir::Tensor {
    let dtype = artifact::dtype(tensor.dtype());
    if let Ok(Ok(strings)) = tensor.strings().map(|strings| egret_ir::Tensor::from_texts(tensor.shape().to_vec(), &strings)) {
        return strings;
    }
    let bytes = tensor.bytes().to_vec().into();
    egret_ir::Tensor::new(dtype, tensor.shape().to_vec(), bytes).expect("the bytes of a tensor fit its type")
}

/// The tensor as a session takes it.
///
/// # Errors
///
/// [`Error::Resource`] if there is not enough memory for a copy.
pub fn from_ir(tensor: &egret_ir::Tensor) -> Result<Tensor, Error> {
    let named = |dtype: &egret_runtime::DType| artifact::dtype(*dtype) == tensor.dtype();
    let dtype = egret_runtime::DType::ALL.into_iter().find(named).expect("both crates have the same element types");
    match tensor.dtype() {
        egret_ir::DType::Str => Ok(Tensor::from_strings(tensor.shape(), &tensor.texts().map_err(Error::Usage)?)?),
        _ => Ok(Tensor::from_bytes(dtype, tensor.shape(), tensor.bytes())?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_goes_both_ways() {
        for dtype in egret_runtime::DType::ALL {
            let tensor = Tensor::random(dtype, &[2, 3], 7).unwrap();
            assert_eq!(artifact::dtype(dtype).name(), dtype.name());
            assert_eq!(from_ir(&to_ir(&tensor)).unwrap(), tensor);
        }
    }

    #[test]
    fn a_string_has_the_same_handle_everywhere() {
        for text in ["", "a", "red", "Grüße \u{1f600}", "\0", " a"] {
            assert_eq!(egret_ir::strings::handle(text), egret_runtime::strings::handle(text), "{text:?}");
        }
    }

    /// Colours as strings become scores, and these labels; what is no colour is written in capitals.
    const COLOURS: &str = "graph colours(x: str[N]) {
        const colours: str[2] = [\"red\", \"green\"]
        const labels: str[2]  = [\"stop\", \"go\"]
        apart  = reshape[shape=[N, 1]](x)
        is_one = eq(apart, colours)
        hits   = cast[to=i32](is_one)
        at     = arg_max[axis=1](hits)
        place  = reshape[shape=[N]](at)
        label  = gather[axis=0](labels, place)
        most   = reduce_max[axes=[1]](hits)
        flat   = reshape[shape=[N]](most)
        known  = cast[to=bool](flat)
        loud   = text[what=upper](x)
        y      = select(known, label, loud)
        return y, label
    }";

    #[test]
    fn strings_go_in_and_labels_come_out() {
        let graph = parse_text("colours.egir", COLOURS).unwrap();
        let artifact = crate::Compiler::new().compile_graph(&graph).unwrap();
        assert_eq!(artifact.plan().strings, ["go", "green", "red", "stop"]);
        let mut session = artifact.session(1).unwrap();
        for given in [&["green", "blue", "red"][..], &["grün"], &["", "red"]] {
            let x = Tensor::from_strings(&[given.len()], given).unwrap();
            let outputs = session.run(&[("x", x.view())]).unwrap();
            let label = |text: &&str| match *text {
                "red" => "stop".to_string(),
                "green" => "go".to_string(),
                other => other.to_uppercase(),
            };
            assert_eq!(outputs[0].strings().unwrap(), given.iter().map(label).collect::<Vec<_>>());
            assert_eq!(evaluate(&graph, &[x]).unwrap(), outputs.iter().map(to_ir).collect::<Vec<_>>());
        }
        // Strings of earlier runs are forgotten, and handles alone are no strings.
        let handles = Tensor::zeros(egret_runtime::DType::U64, &[1]).unwrap();
        let view = egret_runtime::TensorView::new(egret_runtime::DType::Str, &[1], handles.bytes()).unwrap();
        let error = session.run(&[("x", view)]).unwrap_err().to_string();
        assert!(error.starts_with("input `x` is handles, expected strings"), "{error}");
    }

    #[test]
    fn a_handle_of_nothing_is_an_error() {
        let graph = parse_text("same.egir", "graph same(x: str[2]) { y = transpose[perm=[0]](x) return y }").unwrap();
        let mut session = crate::Compiler::new().compile_graph(&graph).unwrap().session(1).unwrap();
        let mut x = Tensor::from_strings(&[2], &["a", "b"]).unwrap();
        x.bytes_mut()[0] ^= 1;
        let error = session.run(&[("x", x.view())]).unwrap_err().to_string();
        assert!(error.ends_with("which stands for no string"), "{error}");
    }

    #[test]
    fn strings_are_moved_on_gpus_and_not_made_there() {
        let gpu = crate::Compiler::new().target("cuda:sm_80");
        let error = gpu.compile_graph(&parse_text("colours.egir", COLOURS).unwrap()).err().unwrap().to_string();
        assert!(error.contains("strings are made on processors only"), "{error}");
        let moved = "graph moved(x: str[2]) { const k: str[2] = [\"a\", \"b\"] y = eq(x, k) z = select(y, k, x) return z }";
        assert!(gpu.compile_graph(&parse_text("moved.egir", moved).unwrap()).is_ok());
    }

    #[test]
    fn wrong_text_is_named_with_its_line() {
        let error = parse_text("a.egir", "graph g(x: f32[2]) {\n    y = realu(x)\n    return y\n}").unwrap_err();
        assert!(error.to_string().starts_with("a.egir:2: "), "{error}");
        assert_eq!(error.exit_code(), 4);
    }
}
