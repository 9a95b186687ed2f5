use super::*;

const F32: DType = DType::F32;

/// An image of `height` by `width` outputs, `inputs` channels in and `outputs` out; the epilogue adds a bias and a residual.
fn kernel([height, width]: [Dim; 2], [inputs, outputs]: [i64; 2], block: usize, tile: Tile) -> Kernel {
    let (b, y, x, n, k) = (sym("b"), sym("y"), sym("x"), sym("n"), sym("k"));
    let at = ((b.clone() * height.clone() + y.clone()) * width.clone() + x.clone()) * outputs + n.clone();
    let sum = bin(BinOp::Add, bin(BinOp::Add, var("acc", F32), load(2, F32, n)), load(3, F32, at.clone()));
    Kernel::new(
        vec![input("x", F32), input("w", F32), input("bias", F32), input("residual", F32), output("out", F32)],
        Body::Winograd(Winograd {
            batch: vec![axis("b", sym("N"))],
            rows: [axis("y", height.clone()), axis("x", width.clone())],
            cols: axis("n", outputs),
            depth: axis("k", inputs),
            a: (BufferId(0), ((b * (height + 2) + y) * (width + 2) + x) * inputs + k),
            weights: BufferId(1),
            tile,
            block,
            epilogue: store(4, at, bin(BinOp::Max, sum, lit(0.0))),
        }),
    )
}

/// Images that tiles do not divide, channels that vectors do not divide, units that do not divide the tiles, several images in
/// one unit, and none.
#[test]
fn odd_shapes() {
    let shapes: [([i64; 4], usize, (usize, usize)); 6] = [
        ([4, 4, 3, 5], 1, (1, 1)),
        ([6, 7, 20, 40], 3, (2, 2)),
        ([8, 5, 32, 16], 4, (4, 1)),
        ([13, 9, 17, 33], 5, (3, 3)),
        ([1, 12, 8, 70], 7, (7, 2)),
        ([3, 2, 1, 1], 2, (2, 1)),
    ];
    for (shape, block, (rows, vectors)) in shapes {
        let [height, width, inputs, outputs] = shape;
        let tile = Tile { rows, vectors };
        check(&kernel([height.into(), width.into()], [inputs, outputs], block, tile), shape);
        check(&kernel([sym("H"), sym("W")], [inputs, outputs], block, tile), shape);
    }
}

/// The kernel at these extents: height, width, channels in and channels out.
fn check(kernel: &Kernel, shape: [i64; 4]) {
    let Body::Winograd(w) = &kernel.body else { panic!("not by Winograd's algorithm") };
    let sizes = [("H", shape[0]), ("W", shape[1])].map(|(symbol, extent)| (name(symbol), extent));
    let [height, width, inputs, outputs] = shape.map(|n| n as usize);
    for target in targets() {
        let panel = w.tile.vectors * target.lanes;
        let loaded = Loaded::new(std::slice::from_ref(kernel), &target);
        for images in [1, 3, 0] {
            let mut numbers = Numbers::new((height * 31 + images) as u64);
            let results = images * height * width * outputs;
            let data = [
                numbers.memory(F32, images * (height + 2) * (width + 2) * inputs),
                numbers.memory(F32, 36 * outputs.div_ceil(panel) * inputs * panel),
                numbers.memory(F32, outputs),
                numbers.memory(F32, results),
                Memory::zeros(F32, results),
            ];
            let sizes = sizes.iter().cloned().chain([(name("N"), images as i64)]).collect();
            check_loaded(loaded.entry(0), &target, kernel, &sizes, &data, Within::Equal);
        }
    }
}
