//! The weights of an artifact: every constant once, in every order in which it is read.

use crate::lower::Data;
use crate::winograd::transformed;
use egret_ir::Tensor;
use egret_runtime::artifact::WeightsLayout;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// Constants and packed constants, each with its place; the bytes are made when they are asked for.
#[derive(Debug, Default)]
pub struct Weights {
    parts: Vec<Data>,
    offsets: Vec<u64>,
    known: HashMap<(blake3::Hash, String), usize>,
    /// Hashes of tensors by address; the parts keep the addresses their own.
    hashes: HashMap<*const Tensor, (Arc<Tensor>, blake3::Hash)>,
    layout: WeightsLayout,
}

impl Weights {
    /// The offset of some data in the weights section, and its length in bytes.
    pub fn place(&mut self, data: &Data) -> (u64, u64) {
        let (tensor, order) = match data {
            Data::Tensor(tensor) => (tensor, format!("{:?}", tensor.ty())),
            Data::Packed(packing) => (&packing.tensor, packing.key()),
            Data::Blocks(packing) => (&packing.integers.tensor, packing.key()),
            Data::Transformed(packing) => (&packing.tensor, format!("transformed {}", packing.key())),
        };
        let key = (self.hash(tensor), order);
        let part = match self.known.get(&key) {
            Some(&part) => part,
            None => {
                self.offsets.push(self.layout.place(data.bytes()));
                self.parts.push(data.clone());
                self.known.insert(key, self.parts.len() - 1);
                self.parts.len() - 1
            }
        };
        (self.offsets[part], data.bytes())
    }

    fn hash(&mut self, tensor: &Arc<Tensor>) -> blake3::Hash {
        let hashed = self.hashes.entry(Arc::as_ptr(tensor)).or_insert_with(|| (tensor.clone(), blake3::hash(tensor.bytes())));
        hashed.1
    }

    /// The length of the section in bytes.
    pub fn section_bytes(&self) -> u64 {
        self.layout.section_bytes()
    }

    /// The bytes of every part in order, packed one after the other as they are asked for.
    pub fn parts(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        self.parts.iter().map(|data| match data {
            Data::Tensor(tensor) => Cow::Borrowed(&tensor.bytes()[..]),
            Data::Packed(packing) => Cow::Owned(packing.bytes()),
            Data::Blocks(packing) => Cow::Owned(packing.bytes()),
            Data::Transformed(packing) => Cow::Owned(transformed(&packing.bytes())),
        })
    }

    /// Every part with its offset.
    pub fn data(&self) -> impl Iterator<Item = (u64, &Data)> {
        self.offsets.iter().copied().zip(&self.parts)
    }
}
