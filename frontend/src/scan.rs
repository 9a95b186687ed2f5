//! Takes the outline of a model file: everything but the weights, which stay where they are.
//!
//! An ONNX file is nested protobuf messages whose bulk is the field `raw_data` of tensors. [`outline`] walks the wire
//! format once and copies what the importer reads, with one change: where `raw_data` stood, a [`Blob`] of 16 bytes says at
//! which offset of the file the data lies. The protobuf parser then sees a few kilobytes instead of a few hundred megabytes.
//!
//! Invariant: the outline holds only the fields of the tables below, nested at most [`MAX_MESSAGES`] deep, with every length
//! checked and no group fields. (The parser behind this module recurses over nested groups without a limit, so a small
//! hostile file would overflow its stack; ONNX uses no groups.)
//!
//! ```text
//! model.onnx   graph { node {..} initializer { dims: 784 raw_data: <401408 bytes> } }
//! outline      graph { node {..} initializer { dims: 784 raw_data: <offset, length> } }
//! ```

use crate::limits::MAX_MESSAGES;
use Field::{Blob as BlobField, In, Keep};

/// Bytes that a length takes in the outline: enough for any length, so that it can be filled in afterwards.
const LENGTH_BYTES: usize = 5;

/// A message type: what its fields hold. Fields that are not listed are left behind.
struct Message {
    name: &'static str,
    fields: &'static [(u64, Field)],
}

/// What becomes of a field.
enum Field {
    /// A number, text, or a list of numbers: copied.
    Keep,
    /// A message of its own.
    In(&'static Message),
    /// The bytes of a tensor: left in the file.
    Blob,
}

static MODEL: Message = Message {
    name: "ModelProto",
    fields: &[(1, Keep), (2, Keep), (3, Keep), (4, Keep), (5, Keep), (7, In(&GRAPH)), (8, In(&OPSET)), (25, In(&FUNCTION))],
};
static OPSET: Message = Message { name: "OperatorSetIdProto", fields: &[(1, Keep), (2, Keep)] };
static GRAPH: Message = Message {
    name: "GraphProto",
    fields: &[(1, In(&NODE)), (2, Keep), (5, In(&TENSOR)), (11, In(&VALUE_INFO)), (12, In(&VALUE_INFO)), (15, In(&SPARSE))],
};
static FUNCTION: Message = Message {
    name: "FunctionProto",
    fields: &[(1, Keep), (4, Keep), (5, Keep), (6, Keep), (7, In(&NODE)), (9, In(&OPSET)), (10, Keep), (11, In(&ATTRIBUTE)), (13, Keep)],
};
static NODE: Message =
    Message { name: "NodeProto", fields: &[(1, Keep), (2, Keep), (3, Keep), (4, Keep), (5, In(&ATTRIBUTE)), (7, Keep), (8, Keep)] };
static ATTRIBUTE: Message = Message {
    name: "AttributeProto",
    fields: &[
        (1, Keep),
        (2, Keep),
        (3, Keep),
        (4, Keep),
        (5, In(&TENSOR)),
        (6, In(&GRAPH)),
        (7, Keep),
        (8, Keep),
        (9, Keep),
        (10, In(&TENSOR)),
        (11, In(&GRAPH)),
        (20, Keep),
        (21, Keep),
        (22, In(&SPARSE)),
    ],
};
static TENSOR: Message = Message {
    name: "TensorProto",
    fields: &[
        (1, Keep),
        (2, Keep),
        (3, In(&SEGMENT)),
        (4, Keep),
        (5, Keep),
        (6, Keep),
        (7, Keep),
        (8, Keep),
        (9, BlobField),
        (10, Keep),
        (11, Keep),
        (13, In(&ENTRY)),
        (14, Keep),
    ],
};
static SEGMENT: Message = Message { name: "Segment", fields: &[(1, Keep), (2, Keep)] };
static ENTRY: Message = Message { name: "StringStringEntryProto", fields: &[(1, Keep), (2, Keep)] };
static SPARSE: Message = Message { name: "SparseTensorProto", fields: &[(1, In(&TENSOR)), (2, In(&TENSOR)), (3, Keep)] };
static VALUE_INFO: Message = Message { name: "ValueInfoProto", fields: &[(1, Keep), (2, In(&TYPE))] };
static TYPE: Message = Message {
    name: "TypeProto",
    fields: &[(1, In(&TENSOR_TYPE)), (4, In(&ELEMENT_TYPE)), (5, In(&MAP_TYPE)), (8, In(&TENSOR_TYPE)), (9, In(&ELEMENT_TYPE))],
};
static TENSOR_TYPE: Message = Message { name: "TypeProto.Tensor", fields: &[(1, Keep), (2, In(&SHAPE))] };
static ELEMENT_TYPE: Message = Message { name: "TypeProto.Sequence", fields: &[(1, In(&TYPE))] };
static MAP_TYPE: Message = Message { name: "TypeProto.Map", fields: &[(1, Keep), (2, In(&TYPE))] };
static SHAPE: Message = Message { name: "TensorShapeProto", fields: &[(1, In(&DIMENSION))] };
static DIMENSION: Message = Message { name: "Dimension", fields: &[(1, Keep), (2, Keep)] };

/// Where in the file the bytes of a tensor lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Blob {
    /// Bytes from the start of the file.
    pub(crate) offset: u64,
    /// The number of bytes.
    pub(crate) length: u64,
}

impl Blob {
    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// What stands in `raw_data` of an outline; `None` when the tensor has none.
    pub(crate) fn of(raw_data: &[u8]) -> Option<Blob> {
        let (offset, length) = (raw_data.get(..8)?, raw_data.get(8..16)?);
        Some(Blob { offset: u64::from_le_bytes(offset.try_into().ok()?), length: u64::from_le_bytes(length.try_into().ok()?) })
    }
}

/// The outline of a model file.
///
/// # Errors
/// A sentence with the byte at which the file stops being a model.
pub(crate) fn outline(file: &[u8]) -> Result<Vec<u8>, String> {
    let mut scan = Scan { file, at: 0, out: vec![] };
    scan.message(&MODEL, file.len(), 0)?;
    Ok(scan.out)
}

struct Scan<'a> {
    file: &'a [u8],
    at: usize,
    out: Vec<u8>,
}

impl Scan<'_> {
    /// Copies the fields up to `end`.
    fn message(&mut self, message: &Message, end: usize, depth: usize) -> Result<(), String> {
        if depth > MAX_MESSAGES {
            return Err(format!("messages are nested more than {MAX_MESSAGES} deep at byte {}", self.at));
        }
        while self.at < end {
            let start = self.at;
            let tag = self.varint(end)?;
            let (number, wire) = (tag >> 3, tag & 7);
            let field = message.fields.iter().find(|(n, _)| *n == number).map(|(_, f)| f);
            match (wire, field) {
                (2, _) => self.delimited(tag, field, message, end, depth)?,
                (0, _) => drop(self.varint(end)?),
                (1, _) => self.skip(8, end, message)?,
                (5, _) => self.skip(4, end, message)?,
                (wire, _) => {
                    return Err(format!("byte {start} is a field of wire type {wire} in a {}, which ONNX does not use", message.name));
                }
            }
            match field {
                Some(Keep) if wire != 2 => self.out.extend_from_slice(&self.file[start..self.at]),
                Some(In(_) | BlobField) if wire != 2 => {
                    return Err(format!("byte {start} is a number where a {} holds a message", message.name));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies a field that is preceded by its length.
    fn delimited(&mut self, tag: u64, field: Option<&Field>, message: &Message, end: usize, depth: usize) -> Result<(), String> {
        let length = self.varint(end)?;
        let stop = usize::try_from(length).ok().and_then(|n| self.at.checked_add(n)).filter(|stop| *stop <= end);
        let Some(stop) = stop else {
            let (at, rest) = (self.at, end - self.at);
            return Err(format!("the file is cut off or damaged: a {} claims {length} bytes at byte {at}, {rest} are left", message.name));
        };
        match field {
            None => {}
            Some(Keep) => {
                self.put_varint(tag);
                self.put_varint(length);
                self.out.extend_from_slice(&self.file[self.at..stop]);
            }
            Some(BlobField) => {
                let blob = Blob { offset: self.at as u64, length }.to_bytes();
                self.put_varint(tag);
                self.put_varint(blob.len() as u64);
                self.out.extend_from_slice(&blob);
            }
            Some(In(inner)) => {
                self.put_varint(tag);
                let hole = self.out.len();
                self.out.extend_from_slice(&[0; LENGTH_BYTES]);
                self.message(inner, stop, depth + 1)?;
                self.fill(hole);
            }
        }
        self.at = stop;
        Ok(())
    }

    /// Writes the length of what follows the hole into it, as a varint padded to its full width.
    fn fill(&mut self, hole: usize) {
        let mut length = self.out.len() - hole - LENGTH_BYTES;
        for (i, byte) in self.out[hole..hole + LENGTH_BYTES].iter_mut().enumerate() {
            let more = if i + 1 < LENGTH_BYTES { 0x80 } else { 0 };
            *byte = (length & 0x7f) as u8 | more;
            length >>= 7;
        }
    }

    fn varint(&mut self, end: usize) -> Result<u64, String> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.file[..end]
                .get(self.at)
                .ok_or_else(|| format!("the file is cut off or damaged: a number breaks off at byte {start}"))?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("the number at byte {start} is longer than ten bytes"))
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn skip(&mut self, bytes: usize, end: usize, message: &Message) -> Result<(), String> {
        self.at = self
            .at
            .checked_add(bytes)
            .filter(|at| *at <= end)
            .ok_or_else(|| format!("the file is cut off or damaged: a {} breaks off at byte {}", message.name, self.at))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_protobuf::{AttributeProto, GraphProto, Message as _, ModelProto, NodeProto, TensorProto};
    use protobuf::MessageField;

    fn tensor(name: &str, raw: &[u8]) -> TensorProto {
        TensorProto { name: name.into(), dims: vec![raw.len() as i64], data_type: 2, raw_data: raw.to_vec(), ..Default::default() }
    }

    fn model() -> ModelProto {
        let inner = GraphProto { initializer: vec![tensor("inner", b"deep")], ..Default::default() };
        let value = AttributeProto { name: "value".into(), t: MessageField::some(tensor("attribute", b"middle")), ..Default::default() };
        let branch = AttributeProto { name: "branch".into(), g: MessageField::some(inner), ..Default::default() };
        let node =
            NodeProto { op_type: "Odd".into(), attribute: vec![value, branch], doc_string: "not needed".into(), ..Default::default() };
        let graph = GraphProto { node: vec![node], initializer: vec![tensor("w", &[7; 300])], ..Default::default() };
        ModelProto { ir_version: 8, graph: MessageField::some(graph), ..Default::default() }
    }

    /// The names and bytes of all tensors of a model, found through its outline.
    fn tensors(file: &[u8]) -> Vec<(String, Vec<u8>)> {
        let outline = ModelProto::parse_from_bytes(&outline(file).unwrap()).unwrap();
        let node = &outline.graph.node[0];
        assert_eq!((node.op_type.as_str(), node.doc_string.as_str()), ("Odd", ""));
        let found = [&outline.graph.initializer[0], &node.attribute[0].t, &node.attribute[1].g.initializer[0]];
        let bytes = |t: &TensorProto| {
            let blob = Blob::of(&t.raw_data).unwrap();
            file[blob.offset as usize..][..blob.length as usize].to_vec()
        };
        found.map(|t| (t.name.clone(), bytes(t))).to_vec()
    }

    #[test]
    fn weights_stay_in_the_file() {
        let file = model().write_to_bytes().unwrap();
        let expected = [("w", vec![7; 300]), ("attribute", b"middle".to_vec()), ("inner", b"deep".to_vec())];
        assert_eq!(tensors(&file), expected.map(|(n, b)| (n.to_string(), b)));
        assert!(outline(&file).unwrap().len() < 200);
    }

    #[test]
    fn groups_are_refused_at_every_level() {
        let start_group = [0x0b];
        let in_graph = [0x3a, 1, 0x0b];
        let in_node = [0x3a, 3, 0x0a, 1, 0x0b];
        for file in [&start_group[..], &in_graph, &in_node] {
            let error = outline(file).unwrap_err();
            assert!(error.contains("wire type 3"), "{error}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        // node { attribute { g { node { attribute { g ...
        let mut file = vec![];
        for i in 0..200 {
            let tag = [0x32, 0x0a, 0x2a][i % 3];
            let mut outer = vec![tag];
            let mut length = file.len();
            while length >= 0x80 {
                outer.push(length as u8 | 0x80);
                length >>= 7;
            }
            outer.push(length as u8);
            outer.append(&mut file);
            file = outer;
        }
        let mut graph = vec![0x3a];
        graph.extend([file.len() as u8 | 0x80, (file.len() >> 7) as u8]);
        graph.append(&mut file);
        // Whatever message the chain starts in, either it is not one or it is too deep; it must not be followed.
        if let Err(error) = outline(&graph) {
            assert!(error.contains("nested more than"), "{error}");
        }
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_model() {
        let file = model().write_to_bytes().unwrap();
        for length in 0..file.len() {
            if let Ok(outline) = outline(&file[..length]) {
                assert!(ModelProto::parse_from_bytes(&outline).unwrap().graph.is_none());
            }
        }
    }
}
