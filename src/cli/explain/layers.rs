//! Places a graph in layers, to be drawn: every node below all that it reads.
//!
//! After Sugiyama: a node's layer is the longest way to it; an edge that passes layers gets a bend in each; the order within a
//! layer is settled by sweeps that put every node near the middle of its neighbours; then the same gives places.
//!
//! **Invariant.** The same graph is placed in the same way. Nodes of a layer do not overlap.

/// Space between neighbours in a layer, in pixels.
const GAP: f64 = 18.0;

/// Height of a layer.
const LAYER: f64 = 64.0;

/// Sweeps over all layers, down and up. After a few the order hardly changes any more.
const SWEEPS: usize = 8;

/// A placed graph.
pub struct Placed {
    /// The middle of each node.
    pub nodes: Vec<(f64, f64)>,
    /// The points of each edge, from what is read to what reads it.
    pub edges: Vec<Vec<(f64, f64)>>,
    /// Width and height of everything.
    pub size: (f64, f64),
}

/// A node, or a bend of an edge.
struct Point {
    width: f64,
    layer: usize,
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

/// Places nodes of these widths. `reads` has the nodes that each one reads, all of them before it.
pub fn place(widths: &[f64], reads: &[Vec<usize>]) -> Placed {
    let mut points: Vec<Point> = vec![];
    for (&width, above) in widths.iter().zip(reads) {
        let layer = above.iter().map(|&a| points[a].layer + 1).max().unwrap_or(0);
        points.push(Point { width, layer, x: 0.0, above: vec![], below: vec![] });
    }
    let ends: Vec<(usize, usize)> = reads.iter().enumerate().flat_map(|(i, above)| above.iter().map(move |&a| (a, i))).collect();
    let chains: Vec<Vec<usize>> = ends.into_iter().map(|(from, to)| bend(&mut points, from, to)).collect();
    let mut layers = vec![vec![]; points.iter().map(|p| p.layer + 1).max().unwrap_or(0)];
    points.iter().enumerate().for_each(|(i, point)| layers[point.layer].push(i));
    layers.iter().for_each(|layer| spread(&mut points, layer));
    for sweep in 0..SWEEPS {
        settle(&mut points, &mut layers, sweep % 2 == 0);
    }
    let left = points.iter().map(|p| p.x - p.width / 2.0).fold(f64::INFINITY, f64::min);
    let right = points.iter().map(|p| p.x + p.width / 2.0).fold(f64::NEG_INFINITY, f64::max);
    let at = |point: &Point| (point.x - left + GAP, (point.layer as f64 + 0.5) * LAYER);
    Placed {
        nodes: points[..widths.len()].iter().map(at).collect(),
        edges: chains.into_iter().map(|chain| chain.into_iter().map(|i| at(&points[i])).collect()).collect(),
        size: if points.is_empty() { (0.0, 0.0) } else { (right - left + 2.0 * GAP, layers.len() as f64 * LAYER) },
    }
}

/// Adds a bend in every layer between two nodes; all points of the edge in order.
fn bend(points: &mut Vec<Point>, from: usize, to: usize) -> Vec<usize> {
    let mut chain = vec![from];
    for layer in points[from].layer + 1..points[to].layer {
        points.push(Point { width: 0.0, layer, x: 0.0, above: vec![], below: vec![] });
        chain.push(points.len() - 1);
    }
    chain.push(to);
    for pair in chain.windows(2) {
        points[pair[0]].below.push(pair[1]);
        points[pair[1]].above.push(pair[0]);
    }
    chain
}

/// Moves every point to the middle of its neighbours above, or below, as far as there is room.
fn settle(points: &mut [Point], layers: &mut [Vec<usize>], down: bool) {
    let count = layers.len();
    for step in 0..count {
        let layer = &mut layers[if down { step } else { count - 1 - step }];
        for &i in layer.iter() {
            let neighbours = if down { &points[i].above } else { &points[i].below };
            if !neighbours.is_empty() {
                points[i].x = neighbours.iter().map(|&n| points[n].x).sum::<f64>() / neighbours.len() as f64;
            }
        }
        layer.sort_by(|&a, &b| points[a].x.total_cmp(&points[b].x).then(a.cmp(&b)));
        part(points, layer);
    }
}

/// Side by side around 0.
fn spread(points: &mut [Point], layer: &[usize]) {
    let total: f64 = layer.iter().map(|&i| points[i].width + GAP).sum();
    let mut x = -total / 2.0;
    for &i in layer {
        points[i].x = x + points[i].width / 2.0;
        x += points[i].width + GAP;
    }
}

/// Pushes apart what overlaps: points that touch form a block, which stands where its points want to be on average.
fn part(points: &mut [Point], layer: &[usize]) {
    // Blocks from left to right: first member, width so far, sum of the wanted left ends of its members.
    let mut blocks: Vec<(usize, f64, f64)> = vec![];
    let left = |(first, _, wanted): &(usize, f64, f64), end: usize| wanted / (end - first) as f64;
    for (k, &i) in layer.iter().enumerate() {
        let width = points[i].width + GAP;
        blocks.push((k, width, points[i].x - width / 2.0));
        while let [.., before, last] = blocks.as_slice() {
            if left(before, last.0) + before.1 <= left(last, k + 1) {
                break;
            }
            let members = (k + 1 - last.0) as f64;
            let joined = (before.0, before.1 + last.1, before.2 + last.2 - members * before.1);
            blocks.truncate(blocks.len() - 2);
            blocks.push(joined);
        }
    }
    let ends: Vec<usize> = blocks.iter().skip(1).map(|block| block.0).chain([layer.len()]).collect();
    for (block, end) in blocks.iter().zip(ends) {
        let mut x = left(block, end);
        for &i in &layer[block.0..end] {
            let width = points[i].width + GAP;
            points[i].x = x + width / 2.0;
            x += width;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A diamond with a shortcut, and a row of nodes that all read the first.
    fn graph() -> (Vec<f64>, Vec<Vec<usize>>) {
        let mut reads = vec![vec![], vec![0], vec![0], vec![1, 2], vec![0, 3]];
        reads.extend((0..6).map(|_| vec![0]));
        (vec![60.0; reads.len()], reads)
    }

    #[test]
    fn nodes_stand_below_what_they_read_and_do_not_overlap() {
        let (widths, reads) = graph();
        let placed = place(&widths, &reads);
        for (i, above) in reads.iter().enumerate() {
            above.iter().for_each(|&a| assert!(placed.nodes[a].1 < placed.nodes[i].1, "{a} above {i}"));
        }
        for i in 0..reads.len() {
            let (x, y) = placed.nodes[i];
            assert!(x - 30.0 >= 0.0 && x + 30.0 <= placed.size.0 && y <= placed.size.1, "{i}");
            let beside = |j: &usize| placed.nodes[*j].1 == y && (placed.nodes[*j].0 - x).abs() < 60.0;
            assert!((0..i).find(beside).is_none(), "{i} overlaps");
        }
    }

    #[test]
    fn long_edges_bend_in_every_layer() {
        let (widths, reads) = graph();
        let lengths: Vec<usize> = place(&widths, &reads).edges.iter().map(Vec::len).collect();
        assert_eq!(lengths[..6], [2, 2, 2, 2, 4, 2]);
    }

    #[test]
    fn an_empty_graph_has_no_size() {
        assert_eq!(place(&[], &[]).size, (0.0, 0.0));
    }
}
