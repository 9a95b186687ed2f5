//! A model file: its outline as protobuf messages, and its tensors as views into the mapped file.
//!
//! Invariant: no weight is copied that is stored as raw bytes, inside the file or in a file beside it; a tensor is checked
//! against its shape before anyone sees it.

use crate::error::FileError;
use crate::external::External;
use crate::mapped::{Contents, Stored};
use crate::scan::{self, Blob};
use bytes::Bytes;
use egret_ir::{DType, Element, Tensor};
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{Message, ModelProto, TensorProto};
use std::path::{Path, PathBuf};

const NOT_A_MODEL: &str = "an ONNX model is expected; if this is one, copy or export it again";

/// A model that has been read, but not understood yet.
pub(crate) struct Model {
    /// The messages; `raw_data` fields hold [`Blob`]s.
    pub(crate) proto: ModelProto,
    path: PathBuf,
    file: Contents,
    external: External,
}

/// Why a tensor cannot be used.
#[derive(Debug)]
pub(crate) enum TensorError {
    /// Its bytes are missing, or too many or too few.
    File(FileError),
    /// Its element type is none that the IR has, or its strings are no text.
    ElementType(String),
}

impl Model {
    /// Maps and reads a file.
    pub(crate) fn open(path: &Path) -> Result<Model, FileError> {
        let file = Contents::map(path).map_err(|found| FileError { path: path.into(), found, help: "an ONNX model is expected".into() })?;
        Model::read(path, file, External::beside(path))
    }

    /// Reads a model from memory; `path` stands in messages, and external data is not looked for.
    pub(crate) fn from_bytes(path: &Path, bytes: Bytes) -> Result<Model, FileError> {
        Model::read(path, Contents::Memory(bytes), External::none(path))
    }

    fn read(path: &Path, file: Contents, external: External) -> Result<Model, FileError> {
        let bad = |found: String| FileError { path: path.into(), found, help: NOT_A_MODEL.into() };
        if file.is_empty() {
            return Err(bad("the file is empty".into()));
        }
        let outline = scan::outline(&file).map_err(&bad)?;
        let proto = ModelProto::parse_from_bytes(&outline).map_err(|e| bad(format!("not an ONNX model: {e}")))?;
        if proto.graph.is_none() {
            return Err(bad("the file holds no graph".into()));
        }
        Ok(Model { proto, path: path.into(), file, external })
    }

    /// The tensor that a message describes.
    pub(crate) fn tensor(&self, proto: &TensorProto) -> Result<Tensor, TensorError> {
        tensor(&self.path, proto, |bytes| match proto.data_location.enum_value() {
            Ok(DataLocation::EXTERNAL) => self.external.data(proto, bytes).map(Some).map_err(TensorError::File),
            _ => match Blob::of(&proto.raw_data) {
                Some(blob) => self.blob(blob).map(Some).ok_or_else(|| damaged(&self.path, proto, OUTSIDE)),
                None => Ok(None),
            },
        })
    }

    /// The tensor's message with its bytes in it, wherever they lie.
    pub(crate) fn inlined(&self, proto: &TensorProto) -> Result<TensorProto, TensorError> {
        let raw = match proto.data_location.enum_value() {
            Ok(DataLocation::EXTERNAL) => Some(self.external.data(proto, layout(&self.path, proto)?.bytes).map_err(TensorError::File)?),
            _ => match Blob::of(&proto.raw_data) {
                Some(blob) => Some(self.blob(blob).ok_or_else(|| damaged(&self.path, proto, OUTSIDE))?),
                None => None,
            },
        };
        let raw_data = raw.map_or_else(Vec::new, |raw| raw.bytes.to_vec());
        Ok(TensorProto { raw_data, external_data: vec![], data_location: DataLocation::DEFAULT.into(), ..proto.clone() })
    }

    /// An error of this file.
    pub(crate) fn bad(&self, found: String) -> FileError {
        FileError { path: self.path.clone(), found, help: NOT_A_MODEL.into() }
    }

    fn blob(&self, blob: Blob) -> Option<Stored> {
        let start = usize::try_from(blob.offset).ok()?;
        let end = start.checked_add(usize::try_from(blob.length).ok()?)?;
        (end <= self.file.len()).then(|| self.file.part(start..end))
    }
}

/// Where the bytes of a tensor should be.
const OUTSIDE: &str = "its data lies outside of the file";

/// What a tensor's message says about its elements.
struct Layout {
    dtype: DType,
    shape: Vec<usize>,
    count: usize,
    /// As they are stored.
    bytes: usize,
}

fn layout(path: &Path, proto: &TensorProto) -> Result<Layout, TensorError> {
    let dtype = dtype(proto.data_type).map_err(TensorError::ElementType)?;
    let bad = |found: String| damaged(path, proto, &found);
    if proto.segment.is_some() {
        return Err(bad("it is stored in segments, which no exporter writes".into()));
    }
    let shape = proto.dims.iter().map(|&d| usize::try_from(d).map_err(|_| bad(format!("extent {d} is negative"))));
    let shape = shape.collect::<Result<Vec<usize>, _>>()?;
    let count = shape.iter().try_fold(1, |n: usize, &d| n.checked_mul(d)).filter(|n| n.checked_mul(dtype.size()).is_some());
    let count = count.ok_or_else(|| bad(format!("the shape {shape:?} is too large")))?;
    let bytes = if is_packed(dtype) { count.div_ceil(8 / dtype.bits()) } else { count * dtype.size() };
    Ok(Layout { dtype, shape, count, bytes })
}

/// The tensor that a message of the file `path` describes; `raw` gives its bytes (of which there should be so many), or nothing
/// if they stand in one of the typed fields.
fn tensor(path: &Path, proto: &TensorProto, raw: impl FnOnce(usize) -> Result<Option<Stored>, TensorError>) -> Result<Tensor, TensorError> {
    let Layout { dtype, shape, count, bytes } = layout(path, proto)?;
    let bad = |found: String| damaged(path, proto, &found);
    if dtype == DType::Str {
        return strings(path, proto, shape, count);
    }
    let data = match raw(bytes)? {
        Some(data) => data,
        None => typed(proto, dtype, if is_packed(dtype) { bytes } else { count }).map_err(bad)?.into(),
    };
    let Stored { bytes: data, home } = data;
    if data.len() != bytes {
        return Err(bad(format!("{dtype}{shape:?} takes {bytes} bytes, found {}", data.len())));
    }
    let data = match dtype {
        DType::Bool => truth_values(data),
        packed if is_packed(packed) => unpacked(&data, packed, count),
        _ => data,
    };
    let tensor = Tensor::new(dtype, shape, data).map_err(bad)?;
    Ok(match home {
        Some(home) => tensor.at(home),
        None => tensor,
    })
}

/// A tensor of strings, which stand in a field of their own.
fn strings(path: &Path, proto: &TensorProto, shape: Vec<usize>, count: usize) -> Result<Tensor, TensorError> {
    if proto.string_data.len() != count {
        let found = format!("{count} elements are expected, found {} in string_data", proto.string_data.len());
        return Err(damaged(path, proto, &found));
    }
    texts(&proto.string_data, shape).map_err(|problem| TensorError::ElementType(format!("tensor `{}`: {problem}", proto.name)))
}

/// Strings as they stand in a file.
pub(crate) fn texts(stored: &[Vec<u8>], shape: Vec<usize>) -> Result<Tensor, String> {
    let text = |bytes: &Vec<u8>| std::str::from_utf8(bytes).map(str::to_string).map_err(|_| "a string is not UTF-8".to_string());
    Tensor::from_texts(shape, &stored.iter().map(text).collect::<Result<Vec<String>, String>>()?)
}

/// The tensor of a message with its data in it, from the file `path`.
pub(crate) fn tensor_message(path: &Path, message: &[u8]) -> Result<Tensor, TensorError> {
    let wrong = |found: String| TensorError::File(FileError { path: path.into(), found, help: "an ONNX tensor is expected".into() });
    let mut proto = TensorProto::parse_from_bytes(message).map_err(|e| wrong(format!("not an ONNX tensor: {e}")))?;
    let raw = std::mem::take(&mut proto.raw_data);
    tensor(path, &proto, |_| Ok((!raw.is_empty()).then(|| Bytes::from(raw).into())))
}

fn damaged(path: &Path, proto: &TensorProto, found: &str) -> TensorError {
    let help = "the model is damaged or was written wrongly; copy or export it again".into();
    TensorError::File(FileError { path: path.into(), found: format!("tensor `{}`: {found}", proto.name), help })
}

/// The element type of an ONNX number, or a sentence on why there is none.
pub(crate) fn dtype(onnx: i32) -> Result<DType, String> {
    let name = match onnx {
        1 => return Ok(DType::F32),
        2 => return Ok(DType::U8),
        3 => return Ok(DType::I8),
        4 => return Ok(DType::U16),
        5 => return Ok(DType::I16),
        6 => return Ok(DType::I32),
        7 => return Ok(DType::I64),
        8 => return Ok(DType::Str),
        9 => return Ok(DType::Bool),
        10 => return Ok(DType::F16),
        11 => return Ok(DType::F64),
        12 => return Ok(DType::U32),
        13 => return Ok(DType::U64),
        16 => return Ok(DType::BF16),
        0 => return Err("the element type is not given".to_string()),
        14 => "complex64",
        15 => "complex128",
        17 => return Ok(DType::F8E4M3),
        18 => return Ok(DType::F8E4M3FNUZ),
        19 => return Ok(DType::F8E5M2),
        20 => return Ok(DType::F8E5M2FNUZ),
        21 => return Ok(DType::U4),
        22 => return Ok(DType::I4),
        23 => return Ok(DType::F4E2M1),
        25 => return Ok(DType::U2),
        26 => return Ok(DType::I2),
        24 => "float8e8m0",
        other => return Err(format!("element type number {other} is not known")),
    };
    Err(format!("element type {name} is not supported"))
}

/// The ONNX number of an element type.
pub(crate) fn number(of: DType) -> i32 {
    (0..LARGEST_NUMBER).find(|&onnx| dtype(onnx) == Ok(of)).unwrap_or_default()
}

/// Above the numbers of all element types that are known.
const LARGEST_NUMBER: i32 = 32;

/// Whether several elements share a byte in a file.
fn is_packed(dtype: DType) -> bool {
    dtype != DType::Bool && dtype.bits() < 8
}

/// Elements that share bytes, the first in the lowest bits, as one byte each; signs are extended.
fn unpacked(data: &[u8], dtype: DType, count: usize) -> Bytes {
    let (bits, per_byte) = (dtype.bits(), 8 / dtype.bits());
    let spare = 8 - bits;
    let element = |i: usize| {
        let code = data[i / per_byte] >> (i % per_byte * bits) << spare;
        if dtype.is_signed_int() { (code as i8 >> spare) as u8 } else { code >> spare }
    };
    (0..count).map(element).collect()
}

/// The bytes of a tensor that is stored in one of the typed fields.
fn typed(proto: &TensorProto, dtype: DType, count: usize) -> Result<Bytes, String> {
    fn gather<T: Copy>(field: &str, values: &[T], count: usize, dtype: DType, convert: impl Fn(T) -> Element) -> Result<Bytes, String> {
        if values.len() != count {
            return Err(format!("{count} elements are expected, found {} in {field}", values.len()));
        }
        Ok(Tensor::from_elements(dtype, vec![count], values.iter().map(|&v| convert(v))).bytes().clone())
    }
    match dtype {
        DType::F32 => gather("float_data", &proto.float_data, count, dtype, |v| Element::Float(v.into())),
        DType::F64 => gather("double_data", &proto.double_data, count, dtype, Element::Float),
        DType::I64 => gather("int64_data", &proto.int64_data, count, dtype, |v| Element::Int(v.into())),
        DType::Str => Err("its strings stand in raw_data, expected string_data".to_string()),
        DType::U64 | DType::U32 => gather("uint64_data", &proto.uint64_data, count, dtype, |v| Element::Int(v.into())),
        // The 16-bit floats stand as their bit patterns.
        DType::F16 | DType::BF16 => gather("int32_data", &proto.int32_data, count, DType::U16, |v| Element::Int(v.into())),
        // So do the smaller types; those that share bytes are packed here, too.
        DType::F8E4M3
        | DType::F8E4M3FNUZ
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F4E2M1
        | DType::I4
        | DType::U4
        | DType::I2
        | DType::U2 => gather("int32_data", &proto.int32_data, count, DType::U8, |v| Element::Int(v.into())),
        DType::I32 | DType::I16 | DType::I8 | DType::U16 | DType::U8 | DType::Bool => {
            gather("int32_data", &proto.int32_data, count, dtype, |v| Element::Int(v.into()))
        }
    }
}

/// Truth values stored as any non-zero byte, as 0 and 1.
fn truth_values(data: Bytes) -> Bytes {
    if data.iter().all(|b| *b <= 1) { data } else { data.iter().map(|b| u8::from(*b != 0)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_protobuf::GraphProto;
    use protobuf::MessageField;

    fn model() -> Model {
        let proto = ModelProto { graph: MessageField::some(GraphProto::default()), ..Default::default() };
        Model::from_bytes(Path::new("m.onnx"), proto.write_to_bytes().unwrap().into()).unwrap()
    }

    fn typed(data_type: i32, fill: impl Fn(&mut TensorProto)) -> Tensor {
        let mut proto = TensorProto { data_type, dims: vec![2], ..Default::default() };
        fill(&mut proto);
        model().tensor(&proto).unwrap()
    }

    #[test]
    fn typed_fields_are_read() {
        assert_eq!(typed(1, |t| t.float_data = vec![1.5, -2.0]).to_f64s(), [1.5, -2.0]);
        assert_eq!(typed(11, |t| t.double_data = vec![1e300, 0.1]).to_f64s(), [1e300, 0.1]);
        assert_eq!(typed(10, |t| t.int32_data = vec![0x3c00, 0xc000]).to_f64s(), [1.0, -2.0]);
        assert_eq!(typed(16, |t| t.int32_data = vec![0x3f80, 0xc000]).to_f64s(), [1.0, -2.0]);
        assert_eq!(typed(9, |t| t.int32_data = vec![0, 5]).bytes()[..], [0, 1]);
        assert_eq!(typed(3, |t| t.int32_data = vec![-1, 5]).to_i64s(), Some(vec![-1, 5]));
        assert_eq!(typed(7, |t| t.int64_data = vec![i64::MIN, 5]).to_i64s(), Some(vec![i64::MIN, 5]));
        assert_eq!(typed(12, |t| t.uint64_data = vec![u32::MAX.into(), 5]).to_i64s(), Some(vec![u32::MAX.into(), 5]));
        assert_eq!(typed(13, |t| t.uint64_data = vec![u64::MAX, 5]).get(0), Element::Int(u64::MAX.into()));
    }

    fn error(proto: TensorProto) -> String {
        match model().tensor(&proto) {
            Err(TensorError::File(error)) => error.to_string(),
            Err(TensorError::ElementType(message)) => message,
            Ok(tensor) => panic!("{tensor:?}"),
        }
    }

    #[test]
    fn wrong_tensors_are_sentences() {
        let tensor = |data_type, dims: &[i64]| TensorProto { name: "w".into(), data_type, dims: dims.to_vec(), ..Default::default() };
        let outside = Blob { offset: 1 << 40, length: 8 };
        let errors = [
            error(tensor(1, &[3])),
            error(tensor(1, &[-3])),
            error(tensor(1, &[i64::MAX, 4])),
            error(tensor(8, &[1])),
            error(tensor(77, &[1])),
            error(TensorProto { raw_data: [outside.offset, outside.length].map(u64::to_le_bytes).concat(), ..tensor(1, &[2]) }),
            error(TensorProto { data_location: DataLocation::EXTERNAL.into(), ..tensor(1, &[2]) }),
        ];
        insta::assert_snapshot!(errors.join("\n\n"));
    }
}
