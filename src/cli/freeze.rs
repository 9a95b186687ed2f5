//! `--freeze`: inputs of a model that become constants of it.
//!
//! **Invariant.** What is frozen fits the model: its element type, its rank, and extents that agree with those of `--dim` and of
//! each other. A frozen input is no input any more: it has no port, and shapes may depend on its data.
//!
//! ```text
//! declared   x: f32[N, 3]   k: i64[1]
//! given      --freeze k=5 --freeze x=x.npy, which is f32[2, 3]
//! found      constants k = [5] and x, and N = 2
//! ```

use super::inputs::{self, Declared, Given};
use super::options::FreezeOptions;
use egret::ir::{self, Element};
use egret::{Bindings, Compiler, Error, from_ir, npy, to_ir};
use std::path::Path;

/// Takes the inputs that `options` name out of `declared` and adds the extents that follow from them to `dims`. The compiler
/// that is returned has both.
pub fn apply(
    options: &FreezeOptions,
    declared: &mut Vec<Declared>,
    dims: &mut Vec<(String, i64)>,
    compiler: Compiler,
) -> Result<Compiler, Error> {
    let (mut ports, mut given) = (vec![], vec![]);
    for (i, (name, text)) in options.frozen.iter().enumerate() {
        let port = inputs::find(name, declared)?;
        if options.frozen[..i].iter().any(|(earlier, _)| earlier == name) {
            return Err(Error::Usage(format!("input `{name}` is frozen twice")));
        }
        ports.push(port.clone());
        given.push(tensor(port, text, dims)?);
    }
    let bindings = inputs::bind(&ports, &given, dims)?;
    dims.retain(|(name, _)| !bindings.contains_key(&**name));
    dims.extend(bindings.iter().map(|(name, extent)| (name.to_string(), *extent)));
    declared.retain(|input| ports.iter().all(|port| port.name != input.name));
    let compiler = bindings.iter().fold(compiler, |compiler, (name, extent)| compiler.dim(name, *extent));
    Ok(ports.iter().zip(&given).fold(compiler, |compiler, (port, given)| compiler.freeze(&port.name, to_ir(&given.tensor))))
}

/// The content of an .npy file, or numbers: one for all elements, or one for each.
fn tensor(input: &Declared, text: &str, dims: &[(String, i64)]) -> Result<Given, Error> {
    let file = Path::new(text);
    if file.extension().is_some_and(|extension| extension == "npy") {
        return Ok(Given { tensor: npy::read(file)?, file: file.into() });
    }
    let refused = |found: String| Error::Usage(format!("input `{}` is {}; --freeze {0}={text}: {found}", input.name, input.ty));
    let numbers = text.split(',').map(|word| element(word.trim(), input)).collect::<Result<Vec<Element>, String>>().map_err(refused)?;
    let bindings: Bindings = dims.iter().map(|(name, extent)| (name.as_str().into(), *extent)).collect();
    let ty = input.ty.bind(&bindings);
    let symbols: Vec<String> = ty.dims.iter().flat_map(ir::Dim::symbols).map(|symbol| format!("--dim {symbol}=...")).collect();
    let extents = ty.dims.iter().map(|dim| usize::try_from(dim.as_const()?).ok()).collect::<Option<Vec<usize>>>();
    let Some(shape) = extents else {
        return Err(refused(format!("a number needs a shape without free dimensions; give {}, or an .npy file", symbols.join(" "))));
    };
    let count = shape.iter().try_fold(1usize, |count, extent| count.checked_mul(*extent));
    let tensor = match (numbers.as_slice(), count) {
        ([number], Some(count)) if count <= LARGEST_FILL => ir::Tensor::splat(ty.dtype, shape, *number),
        (numbers, Some(count)) if numbers.len() == count => ir::Tensor::from_elements(ty.dtype, shape, numbers.iter().copied()),
        ([_], _) => return Err(refused(format!("one number fills at most {LARGEST_FILL} elements; give an .npy file"))),
        (numbers, Some(count)) => return Err(refused(format!("{} numbers, expected one, or {count}", numbers.len()))),
        (_, None) => return Err(refused("its shape is too large".to_string())),
    };
    Ok(Given { tensor: from_ir(&tensor)?, file: text.into() })
}

/// Elements that one number on the command line is repeated for: 2 GiB of f64.
const LARGEST_FILL: usize = 1 << 28;

/// A number as an element of the input: `true` and `false` are 1 and 0, and nothing is rounded to an integer.
fn element(word: &str, input: &Declared) -> Result<Element, String> {
    let dtype = input.ty.dtype;
    let whole = match word {
        "true" => Some(1),
        "false" => Some(0),
        _ => word.parse::<i128>().ok(),
    };
    let wrong = || format!("`{word}` is neither an .npy file nor a number");
    if dtype.is_float() {
        let number = word.parse::<f64>().ok().or(whole.map(|whole| whole as f64));
        return number.map(Element::Float).ok_or_else(wrong);
    }
    let whole = whole.ok_or_else(|| if word.parse::<f64>().is_ok() { format!("{word} is no whole number") } else { wrong() })?;
    if dtype == ir::DType::Bool {
        return if whole == 0 || whole == 1 { Ok(Element::Bool(whole == 1)) } else { Err(format!("{word} is neither true nor false")) };
    }
    let (low, high) = dtype.int_range();
    if (low..=high).contains(&whole) { Ok(Element::Int(whole)) } else { Err(format!("{word} is not between {low} and {high}")) }
}
