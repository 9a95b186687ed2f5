//! Random kernels against the interpreter.

use super::*;

const F32: DType = DType::F32;
const I64: DType = DType::I64;

/// A random piece of a kernel: its axes, and what may be used at a point.
struct Scene {
    axes: Vec<Axis>,
    extents: Vec<i64>,
    lets: Vec<Let>,
    vars: Vec<Arc<str>>,
}

/// Elements of every buffer that is read.
const READ: i64 = 97;

fn scene(numbers: &mut Numbers, names: &[&str], sizes: &mut Vec<(&'static str, i64)>) -> Scene {
    let choices = [1, 2, 3, 5, 8, 16, 17, 20, 33];
    let extents: Vec<i64> = names.iter().map(|_| choices[numbers.below(9) as usize]).collect();
    let symbols = ["P", "Q", "R", "S", "T"];
    let axes = names.iter().zip(&extents).map(|(name, &extent)| {
        let unknown = numbers.below(3) == 0 && sizes.len() < symbols.len();
        if unknown {
            sizes.push((symbols[sizes.len()], extent));
        }
        axis(name, if unknown { sym(symbols[sizes.len() - 1]) } else { extent.into() })
    });
    let axes = axes.collect();
    Scene { axes, extents, lets: vec![], vars: vec![] }
}

impl Scene {
    /// Row-major over the axes, in a random order: every point has its own.
    fn place(&self, numbers: &mut Numbers) -> Dim {
        let mut order: Vec<usize> = (0..self.axes.len()).collect();
        if numbers.below(2) == 0 {
            order.rotate_left(numbers.below(self.axes.len().max(1) as u64) as usize % self.axes.len().max(1));
        }
        order.iter().fold(Dim::ZERO, |at, &i| at * self.axes[i].extent.clone() + self.axes[i].index())
    }

    fn points(&self) -> usize {
        self.extents.iter().product::<i64>() as usize
    }

    /// An index in `0..READ`.
    fn offset(&self, numbers: &mut Numbers) -> Dim {
        let mut at = Dim::from(numbers.below(5) as i64);
        for axis in &self.axes {
            at = at + axis.index() * [0, 1, 1, 2, 3, -1][numbers.below(6) as usize];
        }
        if let Some(l) = self.lets.get(numbers.below(2) as usize) {
            at = at + Dim::symbol(l.name.clone()) * numbers.below(3) as i64;
        }
        at = match numbers.below(5) {
            0 => at.floor_div(&(1 + numbers.below(4) as i64).into()),
            1 => at.clone() * 3 - at.modulo(&7.into()),
            2 => at.maximum(&Dim::from(4)),
            _ => at,
        };
        // In range without a remainder where the coefficients are small enough, else by one.
        if numbers.below(3) == 0 { at.maximum(&Dim::ZERO).minimum(&Dim::from(READ - 1)) } else { at.modulo(&READ.into()) }
    }

    fn expr(&self, numbers: &mut Numbers, dtype: DType, depth: usize) -> Expr {
        let next = depth.saturating_sub(1);
        if depth == 0 || numbers.below(6) == 0 {
            return self.leaf(numbers, dtype);
        }
        let operand = |numbers: &mut Numbers, t| self.expr(numbers, t, next);
        match dtype {
            DType::Bool => {
                let t = [F32, I64][numbers.below(2) as usize];
                let op = [BinOp::Lt, BinOp::Le, BinOp::Eq][numbers.below(3) as usize];
                let x = operand(numbers, t);
                bin(op, x, operand(numbers, t))
            }
            _ if numbers.below(5) == 0 => {
                let c = operand(numbers, DType::Bool);
                let x = operand(numbers, dtype);
                Expr::new(dtype, ExprKind::Select(c, x, operand(numbers, dtype)))
            }
            _ if numbers.below(6) == 0 => {
                let from = [F32, I64, DType::Bool, DType::I32][numbers.below(4) as usize];
                cast(dtype, operand(numbers, from))
            }
            t if t.is_float() => {
                let op = [BinOp::Add, BinOp::Sub, BinOp::Mul, BinOp::Max, BinOp::Min][numbers.below(5) as usize];
                let x = operand(numbers, dtype);
                bin(op, x, operand(numbers, dtype))
            }
            _ => {
                let op = [BinOp::Add, BinOp::Sub, BinOp::Mul, BinOp::Max, BinOp::And, BinOp::Mod, BinOp::Div][numbers.below(7) as usize];
                let x = operand(numbers, dtype);
                bin(op, x, operand(numbers, dtype))
            }
        }
    }

    fn leaf(&self, numbers: &mut Numbers, dtype: DType) -> Expr {
        match dtype {
            F32 if !self.vars.is_empty() && numbers.below(2) == 0 => var(&self.vars[numbers.below(self.vars.len() as u64) as usize], F32),
            F32 if numbers.below(4) == 0 => lit(numbers.small()),
            F32 => load(numbers.below(2) as usize, F32, self.offset(numbers)),
            I64 if numbers.below(2) == 0 => Expr::new(I64, ExprKind::Index(self.offset(numbers))),
            I64 => load(2, I64, self.offset(numbers)),
            DType::Bool => bin(BinOp::Lt, load(0, F32, self.offset(numbers)), lit(0.0)),
            t => cast(t, load(2, I64, self.offset(numbers))),
        }
    }
}

fn buffers(out: &[DType]) -> Vec<Buffer> {
    let read = [input("x", F32), input("y", F32), input("t", I64)];
    read.into_iter().chain(out.iter().enumerate().map(|(i, t)| output(&format!("out{i}"), *t))).collect()
}

fn memory(numbers: &mut Numbers, out: &[(DType, usize)]) -> Vec<Memory> {
    let read = [F32, F32, I64].map(|t| numbers.memory(t, READ as usize));
    read.into_iter().chain(out.iter().map(|&(t, n)| Memory::zeros(t, n))).collect()
}

#[test]
fn maps() {
    for seed in 0..60 {
        let mut numbers = Numbers::new(seed);
        let mut sizes = vec![];
        let rank = numbers.below(4) as usize;
        let mut scene = scene(&mut numbers, &["i", "j", "k"][..rank], &mut sizes);
        if numbers.below(3) == 0 {
            let value = load(2, I64, scene.offset(&mut numbers));
            scene.lets.push(Let { name: name("t"), value, extent: 9.into() });
        }
        let types = [F32, [I64, DType::Bool, DType::I32, DType::F64][numbers.below(4) as usize]];
        let stores = types.iter().enumerate().map(|(i, &t)| {
            let offset = scene.place(&mut numbers);
            Store { buffer: BufferId(3 + i), offset, value: scene.expr(&mut numbers, t, 4) }
        });
        let block = Block { stores: stores.collect(), lets: scene.lets.clone() };
        let kernel = map_kernel(buffers(&types), scene.axes.clone(), block);
        let data = memory(&mut numbers, &types.map(|t| (t, scene.points())));
        check(&kernel, &sizes, &data, Within::Equal);
    }
}

#[test]
fn rows() {
    for seed in 0..24 {
        let mut numbers = Numbers::new(1000 + seed);
        let mut sizes = vec![];
        let outer_rank = 1 + numbers.below(3) as usize;
        let outer = scene(&mut numbers, &["i", "j", "k"][..outer_rank], &mut sizes);
        let reduced_rank = 1 + numbers.below(2) as usize;
        let reduced = scene(&mut numbers, &["a", "b"][..reduced_rank], &mut sizes);
        let all = |vars: &[&str]| Scene {
            axes: [outer.axes.as_slice(), &reduced.axes].concat(),
            extents: [outer.extents.as_slice(), &reduced.extents].concat(),
            lets: vec![],
            vars: vars.iter().map(|v| name(v)).collect(),
        };
        let once = Scene { axes: outer.axes.clone(), extents: outer.extents.clone(), lets: vec![], vars: vec![name("m"), name("s")] };
        let scaled = |e: Expr| bin(BinOp::Min, bin(BinOp::Max, e, lit(-9.0)), lit(9.0));
        let product = bin(BinOp::Mul, scaled(all(&["m"]).expr(&mut numbers, F32, 2)), scaled(all(&["m"]).expr(&mut numbers, F32, 2)));
        let fold = [Fold::Max, Fold::Min][numbers.below(2) as usize];
        let first = Pass {
            over_row: true,
            reduces: vec![
                Reduce { var: name("m"), fold, value: all(&[]).expr(&mut numbers, F32, 3) },
                Reduce { var: name("n"), fold: Fold::Sum, value: all(&[]).expr(&mut numbers, I64, 2) },
            ],
            block: Block::default(),
        };
        let second =
            Pass { over_row: true, reduces: vec![Reduce { var: name("s"), fold: Fold::Sum, value: product }], block: Block::default() };
        let stores = vec![
            Store { buffer: BufferId(3), offset: once.place(&mut numbers), value: once.expr(&mut numbers, F32, 3) },
            Store { buffer: BufferId(4), offset: once.place(&mut numbers), value: var("n", I64) },
        ];
        let third = Pass { over_row: false, reduces: vec![], block: Block { lets: vec![], stores } };
        let everywhere = all(&["m", "s"]);
        let to = everywhere.axes.iter().fold(Dim::ZERO, |at, a| at * a.extent.clone() + a.index());
        let fourth = Pass { over_row: true, reduces: vec![], block: store(5, to, everywhere.expr(&mut numbers, F32, 3)) };
        let lanes_outside = numbers.below(2) == 0;
        let tile = if lanes_outside && outer.axes.len() > 1 { 1 + numbers.below(5) as usize } else { 1 };
        let body = Rows {
            axes: outer.axes.clone(),
            reduced: reduced.axes.clone(),
            lanes_outside,
            tile,
            passes: vec![first, second, third, fourth],
        };
        let kernel = Kernel { borders: vec![], buffers: buffers(&[F32, I64, F32]), body: Body::Rows(body) };
        let data = memory(&mut numbers, &[(F32, outer.points()), (I64, outer.points()), (F32, everywhere.points())]);
        check(&kernel, &sizes, &data, Within::Relative(1e-3));
    }
}
