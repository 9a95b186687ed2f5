//! Reads and writes NumPy's `.npy` files: one tensor per file.
//!
//! **Invariant.** Reading never panics and asks for no more memory than a small multiple of the file's length, whatever bytes it finds: the header
//! is a fixed, flat form (`{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`), so it is read by a scanner without
//! recursion. Big-endian and Fortran-ordered files are turned into little-endian row-major tensors.
//!
//! ```
//! use egret_runtime::{Tensor, npy};
//!
//! let x = Tensor::from_slice(&[2, 2], &[1i64, 2, 3, 4])?;
//! let mut file = Vec::new();
//! npy::write_to(&x, &mut file).unwrap();
//! assert!(file.starts_with(b"\x93NUMPY\x01\x00"));
//! assert_eq!(npy::from_bytes(&file).unwrap(), x);
//! # Ok::<(), egret_runtime::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::plan::DType;
use crate::tensor::{Tensor, byte_length};
use std::borrow::Cow;
use std::io::{self, BufWriter, Write};
use std::path::Path;

mod text;

const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy's type codes, without the byte order. There is none for bf16.
const CODES: &[(&str, DType)] = &[
    ("f8", DType::F64),
    ("f4", DType::F32),
    ("f2", DType::F16),
    ("i1", DType::I8),
    ("i2", DType::I16),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("u1", DType::U8),
    ("u2", DType::U16),
    ("u4", DType::U32),
    ("u8", DType::U64),
    ("b1", DType::Bool),
];

/// Reads a tensor from a file.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read, [`Error::Npy`] if it is not an `.npy` file of numbers or has fewer elements than it says.
pub fn read(path: impl AsRef<Path>) -> Result<Tensor> {
    let path = path.as_ref();
    let file = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    from_bytes(&file).map_err(|problem| Error::Npy { path: path.display().to_string(), problem })
}

/// Writes a tensor to a file, replacing what was there.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be written, [`Error::Npy`] if NumPy has no such element type (bf16).
pub fn write(tensor: &Tensor, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    stored(tensor).map_err(|problem| Error::Npy { path: path.display().to_string(), problem })?;
    let write = || {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        write_to(tensor, &mut file)?;
        file.flush()
    };
    write().map_err(|e| Error::io(path, e))
}

/// Writes a tensor in `.npy` form.
///
/// # Errors
///
/// What `out` reports, and [`io::ErrorKind::Unsupported`] if NumPy has no such element type (bf16).
pub fn write_to(tensor: &Tensor, out: &mut impl Write) -> io::Result<()> {
    let (descr, data) = stored(tensor).map_err(|problem| io::Error::new(io::ErrorKind::Unsupported, problem))?;
    let extents: String = tensor.shape().iter().map(|extent| format!("{extent}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    // Magic, version, length and header together fill whole multiples of 64 bytes and end with a line feed.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| io::Error::other("the shape is too long for an npy header"))?;
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    out.write_all(&data)
}

/// What the header says of the elements, and the elements.
fn stored(tensor: &Tensor) -> Result<(String, Cow<'_, [u8]>), String> {
    if tensor.dtype() == DType::Str {
        let (descr, data) = text::written(&tensor.strings().map_err(|e| e.to_string())?);
        return Ok((descr, data.into()));
    }
    let order = if tensor.dtype().size() == 1 { '|' } else { '<' };
    Ok((format!("{order}{}", code(tensor.dtype())?), tensor.bytes().into()))
}

/// Reads a tensor from the bytes of an `.npy` file.
///
/// # Errors
///
/// A sentence that says what is wrong with the bytes.
pub fn from_bytes(file: &[u8]) -> Result<Tensor, String> {
    let (header, data) = split(file)?;
    let descr = quoted(after(header, "descr")?)?;
    let fortran = boolean(after(header, "fortran_order")?)?;
    let shape = extents(after(header, "shape")?)?;
    let tensor = match text::Stored::of(descr) {
        Some(stored) => stored.read(&shape, data)?,
        None => numbers(descr, &shape, data)?,
    };
    match fortran && shape.len() > 1 {
        true => row_major(&tensor).map_err(|e| e.to_string()),
        false => Ok(tensor),
    }
}

/// Numbers in the order of the file.
fn numbers(descr: &str, shape: &[usize], data: &[u8]) -> Result<Tensor, String> {
    let (big_endian, dtype) = element_type(descr)?;
    let expected = byte_length(dtype, shape).map_err(|e| e.to_string())?;
    let data =
        data.get(..expected).ok_or_else(|| format!("{dtype}{shape:?} has {expected} bytes, but only {} follow the header", data.len()))?;
    let mut tensor = Tensor::from_bytes(dtype, shape, data).map_err(|e| e.to_string())?;
    if big_endian {
        tensor.bytes_mut().chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    Ok(tensor)
}

/// The code NumPy uses for an element type.
fn code(dtype: DType) -> Result<&'static str, String> {
    let found = CODES.iter().find(|(_, known)| *known == dtype);
    found.map(|(code, _)| *code).ok_or_else(|| format!("the npy format has no element type {dtype}; convert the tensor to f32"))
}

/// The header's text and the elements.
fn split(file: &[u8]) -> Result<(&str, &[u8]), String> {
    let rest = file.strip_prefix(MAGIC).ok_or("this is not an npy file (it does not begin with `\\x93NUMPY`)")?;
    let truncated = || "the header is truncated".to_string();
    let (&[major, _], rest) = rest.split_first_chunk().ok_or_else(truncated)?;
    let (length, rest) = match major {
        1 => rest.split_first_chunk().map(|(bytes, rest)| (u16::from_le_bytes(*bytes) as usize, rest)),
        2 | 3 => rest.split_first_chunk().map(|(bytes, rest)| (u32::from_le_bytes(*bytes) as usize, rest)),
        other => {
            return Err(format!("npy version {other} is not known; this reads 1, 2 and 3"));
        }
    }
    .ok_or_else(truncated)?;
    let (header, data) = rest.split_at_checked(length).ok_or_else(truncated)?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    Ok((header, data))
}

/// The text behind `'key':`.
fn after<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let quotes = ['\'', '"'];
    let found = quotes.iter().find_map(|quote| header.split_once(&format!("{quote}{key}{quote}")));
    let value = found.and_then(|(_, rest)| rest.trim_start().strip_prefix(':'));
    value.map(str::trim_start).ok_or_else(|| format!("the header has no `{key}`"))
}

fn quoted(value: &str) -> Result<&str, String> {
    let inner = value.strip_prefix(['\'', '"']).and_then(|rest| rest.split(['\'', '"']).next());
    inner.ok_or_else(|| "the elements are records; an array of plain numbers was expected".to_string())
}

fn boolean(value: &str) -> Result<bool, String> {
    match value {
        value if value.starts_with("True") => Ok(true),
        value if value.starts_with("False") => Ok(false),
        _ => Err("`fortran_order` is neither True nor False".to_string()),
    }
}

/// The extents in a Python tuple: `()`, `(3,)`, `(2, 3)`.
fn extents(value: &str) -> Result<Vec<usize>, String> {
    let inner = value.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let (inner, _) = inner.ok_or("`shape` is not a tuple")?;
    let extents = inner.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    extents.map(|extent| extent.parse().map_err(|_| format!("`{extent}` in `shape` is not an extent"))).collect()
}

/// Whether the elements are big-endian, and their type.
fn element_type(descr: &str) -> Result<(bool, DType), String> {
    let code = descr.strip_prefix(['<', '>', '|', '=']).unwrap_or(descr);
    if code == "O" {
        return Err("the elements are Python objects, which only Python reads; save strings as `array.astype(str)`".to_string());
    }
    let dtype = CODES.iter().find(|(known, _)| *known == code).map(|(_, dtype)| *dtype);
    let dtype = dtype.ok_or_else(|| format!("elements of type `{descr}` are not supported; convert the array to float32 or int64"))?;
    Ok((descr.starts_with('>'), dtype))
}

/// Reorders elements stored with the first axis varying fastest.
fn row_major(stored: &Tensor) -> Result<Tensor> {
    let mut ordered = Tensor::zeros(stored.dtype(), stored.shape())?;
    let size = stored.dtype().size();
    let shape = stored.shape();
    let mut strides = vec![1; shape.len()];
    (1..shape.len()).for_each(|axis| strides[axis] = strides[axis - 1] * shape[axis - 1]);
    let mut index = vec![0; shape.len()];
    for element in ordered.bytes_mut().chunks_exact_mut(size) {
        let from: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum::<usize>() * size;
        element.copy_from_slice(&stored.bytes()[from..from + size]);
        increment(&mut index, shape);
    }
    stored.view().strings().map_or(Ok(()), |known| ordered.name_strings(known))?;
    Ok(ordered)
}

/// Steps to the next index in row-major order, wrapping at the end.
fn increment(index: &mut [usize], shape: &[usize]) {
    for (i, &extent) in index.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < extent {
            return;
        }
        *i = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    pub(super) fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend([1, 0]);
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(data);
        file
    }

    #[test]
    fn every_type_and_rank_comes_back() {
        for (dtype, shape) in CODES.iter().flat_map(|(_, dtype)| [&[][..], &[0, 3], &[5], &[2, 3, 4]].map(|s| (*dtype, s))) {
            let tensor = Tensor::random(dtype, shape, 1).unwrap();
            let mut file = Vec::new();
            write_to(&tensor, &mut file).unwrap();
            assert_eq!((file.len() - tensor.bytes().len()) % 64, 0);
            assert_eq!(from_bytes(&file), Ok(tensor));
        }
    }

    #[test]
    fn fortran_order_and_big_endian_are_undone() {
        // [[1, 2, 3], [4, 5, 6]] column by column, high byte first.
        let data: Vec<u8> = [1u16, 4, 2, 5, 3, 6].iter().flat_map(|n| n.to_be_bytes()).collect();
        let file = npy("{'descr': '>u2', 'fortran_order': True, 'shape': (2, 3), }", &data);
        assert_eq!(from_bytes(&file).unwrap().as_slice::<u16>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_cannot_be_read_is_a_sentence() {
        let check = |file: &[u8], expected: &str| {
            let problem = from_bytes(file).unwrap_err();
            assert!(problem.contains(expected), "`{expected}` in `{problem}`");
        };
        check(b"hello", "not an npy file");
        check(b"\x93NUMPY\x01", "truncated");
        check(b"\x93NUMPY\x09\x00\x10\x00", "npy version 9");
        check(&npy("{'fortran_order': False, 'shape': (), }", &[]), "no `descr`");
        check(&npy("{'descr': '<f4', 'fortran_order': 7, 'shape': (), }", &[]), "neither True nor False");
        check(&npy("{'descr': '<c8', 'fortran_order': False, 'shape': (), }", &[]), "`<c8` are not supported");
        check(&npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }", &[]), "records");
        check(&npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", &[]), "`-1` in `shape`");
        check(&npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", &[0; 11]), "has 12 bytes, but only 11");
        let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 9), }";
        check(&npy(huge, &[]), "too large");
        let bf16 = Tensor::zeros(DType::BF16, &[1]).unwrap();
        assert!(write_to(&bf16, &mut Vec::new()).unwrap_err().to_string().contains("no element type bf16"));
    }

    #[test]
    fn damaged_files_never_panic() {
        let mut good = Vec::new();
        write_to(&Tensor::random(DType::F32, &[2, 3], 0).unwrap(), &mut good).unwrap();
        (0..good.len()).for_each(|length| assert!(from_bytes(&good[..length]).is_err(), "length {length}"));
        let mut random = Random::new(11);
        for _ in 0..2000 {
            let mut bad = good.clone();
            let at = random.below(bad.len() as u64) as usize;
            bad[at] = random.below(256) as u8;
            let _ = from_bytes(&bad);
        }
    }
}
