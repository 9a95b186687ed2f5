//! The inputs of a run: read from files, matched with what the model declares, or made up.
//!
//! **Invariant.** What leaves this module fits the model: one tensor per declared input, in the model's order, of its type and
//! with extents that agree on every free dimension. Whatever does not fit is a sentence that names the input and the
//! file, never a failure further down.
//!
//! ```text
//! declared   images: f32[batch, 1, 8, 8]
//! given      --input images=images.npy, which is f32[360, 1, 8, 8]
//! found      batch = 360
//! ```

use super::options::InputOptions;
use egret::{Bindings, DType, Error, Tensor, TensorType, npy};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An input as the model declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// The name the model gives it.
    pub name: String,
    /// Element type and extents, some of them free.
    pub ty: TensorType,
}

/// A tensor that was read for an input.
pub struct Given {
    /// The file it came from.
    pub file: PathBuf,
    /// Its content.
    pub tensor: Tensor,
}

/// Reads the inputs that the options name, one for each declared input and in that order; `None` if they name none.
pub fn read(options: &InputOptions, declared: &[Declared]) -> Result<Option<Vec<Given>>, Error> {
    if options.inputs.is_empty() && options.input_dir.is_none() {
        return Ok(None);
    }
    let files = assign(options, declared)?;
    let given = files.into_iter().map(|file| Ok(Given { tensor: npy::read(&file)?, file }));
    Ok(Some(given.collect::<Result<Vec<_>, Error>>()?))
}

/// The file of each declared input. `--input` goes before `--input-dir`.
fn assign(options: &InputOptions, declared: &[Declared]) -> Result<Vec<PathBuf>, Error> {
    for (i, (name, _)) in options.inputs.iter().enumerate() {
        find(name, declared)?;
        if options.inputs[..i].iter().any(|(earlier, _)| earlier == name) {
            return Err(Error::Usage(format!("input `{name}` is given twice")));
        }
    }
    let named = |input: &Declared| {
        let found = options.inputs.iter().find(|(name, _)| *name == input.name);
        found.map(|(_, file)| file.clone())
    };
    let numbered = |index: usize| options.input_dir.as_ref().map(|dir| dir.join(format!("input_{index}.npy")));
    let files: Vec<Option<PathBuf>> = declared.iter().enumerate().map(|(i, input)| named(input).or_else(|| numbered(i))).collect();
    let missing: Vec<&Declared> = declared.iter().zip(&files).filter(|(_, file)| file.is_none()).map(|(input, _)| input).collect();
    if !missing.is_empty() {
        return Err(Error::Usage(missing_inputs(&missing)));
    }
    if let Some(dir) = &options.input_dir {
        check_directory(dir, declared, &files)?;
    }
    Ok(files.into_iter().flatten().collect())
}

/// The input of this name.
pub fn find<'a>(name: &str, declared: &'a [Declared]) -> Result<&'a Declared, Error> {
    declared.iter().find(|input| input.name == name).ok_or_else(|| Error::Usage(unknown_input(name, declared)))
}

fn unknown_input(name: &str, declared: &[Declared]) -> String {
    let meant = did_you_mean(name, declared.iter().map(|input| input.name.as_str()));
    let all: Vec<&Declared> = declared.iter().collect();
    format!("the model has no input `{name}`{meant}; its inputs are:{}", list(&all))
}

fn missing_inputs(missing: &[&Declared]) -> String {
    format!(
        "{} of the model {} not given:{}\n  help: give each with --input NAME=FILE.npy, or none of the inputs for pseudo-random ones",
        super::table::plural(missing.len(), "input"),
        if missing.len() == 1 { "is" } else { "are" },
        list(missing)
    )
}

/// Names and types, a line each.
fn list(inputs: &[&Declared]) -> String {
    if inputs.is_empty() {
        return " none".to_string();
    }
    inputs.iter().map(|input| format!("\n  {}: {}", input.name, input.ty)).collect()
}

/// The files that the directory lacks, all at once.
fn check_directory(dir: &Path, declared: &[Declared], files: &[Option<PathBuf>]) -> Result<(), Error> {
    if !dir.is_dir() {
        return Err(Error::File(format!("{}: this is not a directory", dir.display())));
    }
    let files = declared.iter().zip(files).filter_map(|(input, file)| Some((input, file.as_ref()?)));
    let absent: String = files
        .filter(|(_, file)| file.starts_with(dir) && !file.exists())
        .map(|(input, file)| format!("\n  {} for {}: {}", file.display(), input.name, input.ty))
        .collect();
    match absent.is_empty() {
        true => Ok(()),
        false => Err(Error::Usage(format!("files are missing for inputs of the model:{absent}"))),
    }
}

/// `; did you mean ...?` if one of the candidates is near enough.
pub fn did_you_mean<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    // A third of the letters may be wrong: `imagse` is taken for `images`, `x` for nothing else.
    let reach = (word.chars().count() / 3).max(1);
    let near = candidates.map(|name| (strsim::damerau_levenshtein(word, name), name)).min();
    match near {
        Some((distance, name)) if distance <= reach && distance < word.chars().count() => {
            format!("; did you mean `{name}`?")
        }
        _ => String::new(),
    }
}

/// Checks types and shapes, and finds the values of the free dimensions. `fixed` are those given by `--dim`.
pub fn bind(declared: &[Declared], given: &[Given], fixed: &[(String, i64)]) -> Result<Bindings, Error> {
    let mut bindings: Bindings = fixed.iter().map(|(name, value)| (Arc::from(name.as_str()), *value)).collect();
    for (input, given) in declared.iter().zip(given) {
        check_rank(input, given)?;
        let extents = input.ty.dims.iter().zip(given.tensor.shape());
        for (symbol, &extent) in extents.filter_map(|(dim, extent)| Some((dim.as_symbol()?, extent))) {
            let extent = extent as i64;
            let bound = *bindings.entry(symbol.clone()).or_insert(extent);
            if bound != extent {
                let found = format!("`{symbol}` is {bound} by --dim or an earlier input, but {extent} here");
                return Err(mismatch(input, given, &found));
            }
        }
    }
    for (input, given) in declared.iter().zip(given) {
        check_extents(input, given, &bindings)?;
    }
    Ok(bindings)
}

fn check_rank(input: &Declared, given: &Given) -> Result<(), Error> {
    if DType::named(given.tensor.dtype().name()) != Some(input.ty.dtype) {
        let found = format!("its elements are {}, not {}", given.tensor.dtype(), input.ty.dtype);
        return Err(mismatch(input, given, &found));
    }
    if given.tensor.shape().len() != input.ty.rank() {
        let found = format!("it has {} dimensions, not {}", given.tensor.shape().len(), input.ty.rank());
        return Err(mismatch(input, given, &found));
    }
    Ok(())
}

fn check_extents(input: &Declared, given: &Given, bindings: &Bindings) -> Result<(), Error> {
    let dims = input.ty.dims.iter().zip(given.tensor.shape()).enumerate();
    for (axis, (dim, &extent)) in dims {
        // An extent that stays symbolic here is checked when the model runs.
        if dim.bind(bindings).as_const().is_some_and(|expected| expected != extent as i64) {
            let found = format!("the extent of axis {axis} is {extent}, not {dim}");
            return Err(mismatch(input, given, &found));
        }
    }
    Ok(())
}

fn mismatch(input: &Declared, given: &Given, found: &str) -> Error {
    let Given { file, tensor } = given;
    let shape = tensor.shape();
    Error::Usage(format!("input `{}` is {}; {} is {}{shape:?}: {found}", input.name, input.ty, file.display(), tensor.dtype()))
}

/// The free dimensions of the inputs, in the order in which they appear.
pub fn free_dims(declared: &[Declared]) -> Vec<Arc<str>> {
    let mut found: Vec<Arc<str>> = Vec::new();
    for symbol in declared.iter().flat_map(|input| &input.ty.dims).flat_map(|dim| dim.symbols()) {
        if !found.contains(&symbol) {
            found.push(symbol);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret::Dim;

    fn declared() -> Vec<Declared> {
        let input = |name: &str, dims: Vec<Dim>| Declared { name: name.into(), ty: TensorType::new(DType::F32, dims) };
        let n = || Dim::symbol("N");
        vec![input("x", vec![n(), 4.into()]), input("mask", vec![n() * 2, n()])]
    }

    fn given(shape: &[usize]) -> Given {
        let count = shape.iter().product();
        Given { file: "t.npy".into(), tensor: Tensor::from_slice(shape, &vec![0.0f32; count]).unwrap() }
    }

    fn check_bind(shapes: [&[usize]; 2], fixed: &[(String, i64)], expected: Result<i64, &str>) {
        let found = bind(&declared(), &shapes.map(given), fixed);
        match (found, expected) {
            (Ok(bindings), Ok(n)) => assert_eq!(bindings["N"], n),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (found, expected) => panic!("expected {expected:?}, found {found:?}"),
        }
    }

    #[test]
    fn shapes_bind_the_free_dimensions() {
        check_bind([&[3, 4], &[6, 3]], &[], Ok(3));
        check_bind([&[3, 4], &[6, 3]], &[("N".into(), 3)], Ok(3));
        check_bind([&[3, 4], &[6, 3]], &[("N".into(), 2)], Err("`N` is 2 by --dim or an earlier input, but 3 here"));
        check_bind([&[3, 4], &[6, 2]], &[], Err("input `mask` is f32[2*N, N]; t.npy is f32[6, 2]: `N` is 3"));
        check_bind([&[3, 4], &[5, 3]], &[], Err("the extent of axis 0 is 5, not 2*N"));
        check_bind([&[3, 5], &[6, 3]], &[], Err("the extent of axis 1 is 5, not 4"));
        check_bind([&[3], &[6, 3]], &[], Err("it has 1 dimensions, not 2"));
    }

    #[test]
    fn element_types_are_compared() {
        let ids = Tensor::from_slice(&[3, 4], &[0i64; 12]).unwrap();
        let ids = Given { file: "ids.npy".into(), tensor: ids };
        let error = bind(&declared()[..1], &[ids], &[]).unwrap_err().to_string();
        assert_eq!(error, "input `x` is f32[N, 4]; ids.npy is i64[3, 4]: its elements are i64, not f32");
    }

    fn check_assign(inputs: &[&str], expected: &str) {
        let inputs = inputs.iter().map(|name| (name.to_string(), PathBuf::from("t.npy"))).collect();
        let options = InputOptions { inputs, input_dir: None, seed: 0 };
        let error = assign(&options, &declared()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn names_are_matched() {
        check_assign(&["x"], "1 input of the model is not given:\n  mask: f32[2*N, N]\n  help: ");
        check_assign(&["x", "msak"], "the model has no input `msak`; did you mean `mask`?; its inputs are:\n  x: f32[N, 4]\n");
        check_assign(&["x", "x"], "input `x` is given twice");
        assert_eq!(free_dims(&declared()), ["N".into()]);
    }
}
