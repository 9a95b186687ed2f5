//! Contractions of one region that compute results of it, and do not read what the others compute, are one kernel.
//!
//! ```text
//! q = matmul(x, v); k = transpose[perm=[1, 0]](matmul(x, w))
//! =>
//! contract rows m0 in 64, cols n in 128, k k0 in 96 { ... q[128*m0 + n] = acc }
//! contract rows m0 in 64, cols n in 128, k k0 in 96 { ... k[m0 + 64*n] = acc }
//! ```
//!
//! Each has its own loops, panels and epilogue, so it stores its result where that belongs; starting a kernel is paid for once.

use super::exprs::Rewrite;
use super::finish::{Names, with_buffers};
use super::{Launch, Place};
use crate::kernel::{Body, BufferId, Contract, Kernel, Piece};
use egret_ir::Dim;
use std::sync::Arc;

/// The launches, those that may be one as one.
pub fn together(launches: Vec<Launch>, names: &dyn Fn() -> Names) -> Vec<Launch> {
    let fits: Vec<bool> = launches.iter().map(|l| is_result_of_contraction(l) && is_unread(l, &launches)).collect();
    if fits.iter().filter(|fits| **fits).count() < 2 {
        return launches;
    }
    let (mut all, mut alike) = (vec![], vec![]);
    launches.into_iter().zip(fits).for_each(|(launch, fits)| if fits { alike.push(launch) } else { all.push(launch) });
    all.push(joined(alike, names));
    all
}

fn is_result_of_contraction(launch: &Launch) -> bool {
    matches!(launch.kernel.body, Body::Contract(_)) && written(launch).all(|place| matches!(place, Place::Result(_)))
}

/// Whether no launch reads what one writes.
fn is_unread(launch: &Launch, all: &[Launch]) -> bool {
    !all.iter().any(|other| read(other).any(|place| written(launch).any(|w| w == place)))
}

fn written(launch: &Launch) -> impl Iterator<Item = &Place> {
    launch.places.iter().zip(&launch.kernel.buffers).filter(|(_, b)| b.written).map(|(place, _)| place)
}

fn read(launch: &Launch) -> impl Iterator<Item = &Place> {
    launch.places.iter().zip(&launch.kernel.buffers).filter(|(_, b)| !b.written).map(|(place, _)| place)
}

/// One launch that does what several do.
fn joined(launches: Vec<Launch>, names: &dyn Fn() -> Names) -> Launch {
    let mut of_both = launches.iter().flat_map(|l| l.places.iter().cloned().zip(l.kernel.buffers.iter().cloned())).collect::<Vec<_>>();
    of_both.sort_by_key(|(_, buffer)| buffer.written);
    let (mut places, mut buffers) = (vec![], vec![]);
    for (place, buffer) in of_both {
        if !places.contains(&place) {
            places.push(place);
            buffers.push(buffer);
        }
    }
    let name = launches[0].name.clone();
    let (mut contracts, mut borders): (Vec<Contract>, Vec<Piece>) = (vec![], vec![]);
    for launch in launches {
        let number = |b: BufferId| BufferId(places.iter().position(|p| *p == launch.places[b.0]).unwrap_or(usize::MAX));
        if let Body::Contract(more) = with_buffers(launch.kernel.body, &number) {
            contracts.extend(more);
        }
        launch.kernel.borders.iter().for_each(|piece| borders.push(behind(&borders, piece, names(), &number)));
    }
    Launch { kernel: Kernel { buffers, body: Body::Contract(contracts), borders }, places, name }
}

/// A piece, its axes and indices numbered after those of the pieces before it.
fn behind(before: &[Piece], piece: &Piece, mut names: Names, number: &dyn Fn(BufferId) -> BufferId) -> Piece {
    names.number(piece.axes.iter().map(|a| a.name.clone()), "i", before.iter().map(|p| p.axes.len()).sum());
    names.number(piece.block.lets.iter().map(|l| l.name.clone()), "g", before.iter().map(|p| p.block.lets.len()).sum());
    let (dim, name) = (|d: &Dim| names.dim(d), |n: &Arc<str>| names.name(n));
    Piece { axes: names.axes(&piece.axes), block: Rewrite::new(&dim, number, &name).block(&piece.block) }
}
