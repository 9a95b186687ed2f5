//! What warpgroups multiply: products that read shared memory and change registers while their warps go on (PTX ISA, "wgmma").
//!
//! **Invariant.** A product reads its operands when it starts and again when it is waited for, and its sums change at the wait: what must
//! not happen in between to either of them is found on any schedule. Registers of sums must not be touched until they are waited for,
//! and what other instructions wrote to them comes to products behind a `wgmma.fence` only.

use super::WARP;
use super::matrix::{added, toward};
use super::memory::{Now, Region};
use super::op::Element;
use std::collections::VecDeque;

/// Rows of a warp in a product of its group, and steps of `k`.
const ROWS: usize = 16;
const STEPS: usize = 16;

/// Warps of a group.
pub(super) const WARPS: usize = 4;

/// Elements of 16 bits in 16 bytes, the piece in which memory is exchanged.
const PIECE: u64 = 8;

/// A product that has started.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) element: Element,
    pub(super) columns: usize,
    /// The registers of the sums.
    pub(super) sums: Vec<usize>,
    pub(super) operands: [Operand; 2],
}

/// Where an operand is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    start: u64,
    leading: u64,
    stride: u64,
    /// Whether rows of memory are points, and not steps of `k`.
    along_points: bool,
    /// Whether these are swizzled rows of 128 bytes; else they are rows of 16 bytes.
    swizzled: bool,
}

impl Operand {
    /// Reads a description ("Matrix descriptor"): rows of 128 bytes that are swizzled, and rows of 16 bytes of points, are what there is
    /// here.
    pub(super) fn described(bits: u64, along_points: bool) -> Result<Operand, String> {
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        let swizzled = bits >> 62 == 1;
        match (bits >> 62, bits >> 49 & 7) {
            (1, 0) | (0, 0) if swizzled || along_points => {
                Ok(Operand { start: field(0), leading: field(16), stride: field(32), along_points, swizzled })
            }
            _ => Err(format!("{bits:#x} describes neither rows of 128 bytes that are swizzled nor rows of points of 16 bytes")),
        }
    }

    /// The address of eight neighbours: steps from `k` on of point `i`, or points from `i` on at step `k`.
    fn piece(&self, i: u64, k: u64) -> u64 {
        let at = match self.along_points {
            _ if !self.swizzled => return self.start + i / 8 * self.stride + k / 8 * self.leading + k % 8 * 16,
            false => self.start + i / 8 * self.stride + i % 8 * 128 + k * 2,
            true => self.start + i / 64 * self.leading + k / 8 * self.stride + k % 8 * 128 + i % 64 * 2,
        };
        at ^ (at >> 7 & 7) << 4
    }

    /// The elements at some points, by point and step.
    fn read(&self, points: std::ops::Range<u64>, memory: &mut Region, who: &Now) -> Result<Vec<[u16; STEPS]>, String> {
        let first = points.start;
        let mut found = vec![[0; STEPS]; (points.end - first) as usize];
        let (point_step, step_step) = if self.along_points { (PIECE as usize, 1) } else { (1, PIECE as usize) };
        for i in points.step_by(point_step) {
            for k in (0..STEPS).step_by(step_step) {
                let piece = memory.read_shown(self.piece(i, k as u64), who)?;
                for (n, value) in piece.into_iter().enumerate() {
                    let (point, step) = if self.along_points { (i as usize + n, k) } else { (i as usize, k + n) };
                    found[point - first as usize][step] = value as u16;
                }
            }
        }
        Ok(found)
    }
}

impl Product {
    /// What a warp reads for it.
    pub(super) fn read(&self, memory: &mut Region, who: &Now) -> Result<[Vec<[u16; STEPS]>; 2], String> {
        let first = (who.warp() % WARPS * ROWS) as u64;
        let a = self.operands[0].read(first..first + ROWS as u64, memory, who)?;
        let b = self.operands[1].read(0..self.columns as u64, memory, who)?;
        Ok([a, b])
    }

    /// Adds it to the registers of a warp.
    pub(super) fn add(&self, [a, b]: [Vec<[u16; STEPS]>; 2], registers: &mut [[u64; WARP]]) -> Result<(), String> {
        let values = |rows: Vec<[u16; STEPS]>| -> Result<Vec<[f64; STEPS]>, String> {
            let value = |row: [u16; STEPS]| {
                let mut found = [0.0; STEPS];
                found.iter_mut().zip(row).try_for_each(|(v, bits)| self.element.of(bits.into(), 0).map(|x| *v = x))?;
                Ok(found)
            };
            rows.into_iter().map(value).collect()
        };
        let (a, b) = (values(a)?, values(b)?);
        for (i, &register) in self.sums.iter().enumerate() {
            for (lane, value) in registers[register].iter_mut().enumerate() {
                let (row, col) = (lane / 4 + i % 4 / 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2);
                *value = toward(added(*value, &a[row], &b[col]));
            }
        }
        Ok(())
    }
}

/// The products of a warp that go on.
#[derive(Clone, Debug, Default)]
pub(super) struct Products {
    groups: VecDeque<Vec<Product>>,
    /// Those of no group yet.
    open: Vec<Product>,
    /// How many there have been.
    pub(super) started: u64,
}

impl Products {
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.groups.is_empty()
    }

    /// Whether a register has sums of one.
    pub(super) fn changes(&self, register: usize) -> bool {
        self.groups.iter().flatten().chain(&self.open).any(|product| product.sums.contains(&register))
    }

    /// Starts one; its sums are either those of another one, in order, or of none.
    pub(super) fn start(&mut self, product: Product) -> Result<(), String> {
        let before = self.groups.iter().flatten().chain(&self.open);
        if let Some(register) = before.filter(|other| other.sums != product.sums).flat_map(|o| &o.sums).find(|r| product.sums.contains(r)) {
            return Err(format!("register {register} has a sum of another product that goes on"));
        }
        self.started += 1;
        self.open.push(product);
        Ok(())
    }

    /// Makes a group of what was started since the last one.
    pub(super) fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }

    /// What is done when all but the last `groups` groups are.
    pub(super) fn done(&mut self, groups: usize) -> Vec<Product> {
        let done = self.groups.len().saturating_sub(groups);
        self.groups.drain(..done).flatten().collect()
    }
}
