//! Groups of random networks against brute force, and what single choices come to.

use super::*;
use crate::extract::brute_force;
use egret_ir::eval::eval;
use egret_ir::text::parse;
use egret_ir::{DType, Element, Op, Tensor, TensorType, ValueId};

fn grouped(graph: &Graph) -> Result<Graph, String> {
    group(graph, &Context::default())
}

/// A linear congruential generator: numbers below `n`.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    /// A constant with small numbers in it.
    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.below(9) as f32 / 4.0 - 1.0).collect();
        Tensor::from_f32s(shape.to_vec(), &values)
    }
}

/// A network of `count` ops over `f32[4, 4]`, in which anything may read anything.
fn network(random: &mut Random, count: usize) -> Graph {
    let mut graph = Graph::new("g");
    let mut values: Vec<ValueId> = (0..2).map(|_| graph.add_param("x", TensorType::new(DType::F32, [4, 4]))).collect();
    for i in 0..count {
        let any = |random: &mut Random| values[random.below(values.len())];
        let (x, y) = (any(random), any(random));
        let (op, operands) = match random.below(9) {
            0 | 1 => (Op::add, vec![x, y]),
            2 => (Op::mul, vec![x, y]),
            3 => (Op::relu, vec![x]),
            4 => (Op::sigmoid, vec![x]),
            5 => (Op::transpose { perm: vec![1, 0] }, vec![x]),
            6 => (Op::softmax { axes: vec![1] }, vec![x]),
            // Few readers of few values, so that there is something to merge.
            7 | 8 => {
                let weights = random.tensor(&[4, 4]);
                (Op::matmul, vec![values[random.below(2)], graph.add_const("w", weights)])
            }
            _ => unreachable!("below 9"),
        };
        values.push(graph.add(&format!("v{i}"), op, &operands).unwrap());
    }
    for (i, name) in [(values.len() - 1, "y"), (2 + random.below(count), "z")] {
        graph.add_result(values[i], name);
    }
    graph
}

#[test]
fn the_plan_of_random_networks_is_the_cheapest() {
    let mut random = Random(1);
    for _ in 0..60 {
        let network = Network::with_merged(&network(&mut random, 7)).unwrap();
        let problem = Choices::new(&network, &MACHINE).problem;
        let plan = solve(&problem, BEAM).unwrap();
        assert!(plan.exact);
        assert_eq!(plan.cost, brute_force(&problem), "{}", network.graph);
    }
}

#[test]
fn random_networks_compute_what_they_did() {
    let mut random = Random(2);
    let mut merged = 0;
    for count in (0..150).map(|i| 4 + i % 12) {
        let graph = network(&mut random, count);
        let inputs = [random.tensor(&[4, 4]), random.tensor(&[4, 4])];
        let found = grouped(&graph).unwrap();
        egret_ir::verify::verify(&found).unwrap();
        merged += usize::from(found.to_string().contains(".merged"));
        let (expected, found) = (eval(&graph, &inputs).unwrap(), eval(&found, &inputs).unwrap());
        assert_eq!(expected, found, "{graph}");
    }
    assert!(merged > 0, "no network had merged products");
}

#[test]
fn siblings_with_biases_are_one_product() {
    let graph = parse(
        "graph g(x: f32[64, 256]) {
            const v: f32[256, 256] = random(1)
            const w: f32[256, 128] = random(2)
            const a: f32[256] = random(3)
            const b: f32[128] = random(4)
            const t: f32[256, 32] = random(5)
            const u: f32[128, 32] = random(6)
            q = matmul(x, v) @ \"q\"
            k = matmul(x, w) @ \"k\"
            r = add(q, a) @ \"qa\"
            l = add(k, b) @ \"kb\"
            c = matmul(r, t) @ \"c\"
            d = matmul(l, u) @ \"d\"
            return c, d
        }",
    );
    let found = grouped(&graph.unwrap()).unwrap();
    let shown: Vec<String> =
        found.nodes().iter().map(|n| format!("{} of {}", found.value(n.results[0]).name, n.origin.join(" "))).collect();
    assert_eq!(shown, ["q.merged.1 of k kb q qa", "c of c", "d of d"], "{found}");
    assert_eq!(found.ty(found.nodes()[0].operands[1]).to_string(), "f32[256, 384]");
}

#[test]
fn products_that_lie_apart_are_one_kernel() {
    // Both leave the graph, so each has to be in memory by itself: one merged product would only be copied apart.
    let graph = parse(
        "graph g(x: f32[64, 256]) {
            const v: f32[256, 256] = random(1)
            const w: f32[256, 256] = random(2)
            q = matmul(x, v)
            k = matmul(x, w)
            return q, k
        }",
    );
    let found = grouped(&graph.unwrap()).unwrap();
    assert_eq!(kernels(&found), ["q k = matmul matmul"], "{found}");
}

/// What each kernel makes, and of which ops but views.
fn kernels(graph: &Graph) -> Vec<String> {
    let names = |n: &egret_ir::Node| n.results.iter().map(|&r| graph.value(r).name.to_string()).collect::<Vec<_>>().join(" ");
    let ops = |n: &egret_ir::Node| {
        let ops = n.region.as_ref().map_or(vec![], |region| region.nodes().iter().map(|n| n.op.clone()).collect());
        ops.iter().filter(|op| op.def().kind != egret_ir::Kind::View).map(|op| op.name()).collect::<Vec<_>>().join(" ")
    };
    graph.nodes().iter().map(|n| format!("{} = {}", names(n), ops(n))).collect()
}

#[test]
fn slices_of_a_product_are_stored_where_they_belong() {
    let graph = |returned: &str| {
        let text = format!(
            "graph g(x: f32[64, 256], past: f32[4, 3, 32]) {{
                const w: f32[256, 384] = random(1)
                const b: f32[384] = random(2)
                m = matmul(x, w)
                n = add(m, b)
                q = slice[start=[0, 0], shape=[64, 128], step=[1, 1]](n)
                k = slice[start=[0, 128], shape=[64, 128], step=[1, 1]](n)
                v = slice[start=[0, 256], shape=[64, 128], step=[1, 1]](n)
                qs = reshape[shape=[64, 4, 32]](q)
                ks = reshape[shape=[64, 4, 32]](k)
                vs = reshape[shape=[64, 4, 32]](v)
                qh = transpose[perm=[1, 0, 2]](qs)
                kh = transpose[perm=[1, 0, 2]](ks)
                vh = transpose[perm=[1, 0, 2]](vs)
                kt = transpose[perm=[0, 2, 1]](kh)
                s = matmul(qh, kt)
                t = relu(vh)
                c = concat[axis=1](past, vh)
                return s, {returned}
            }}"
        );
        parse(&text).unwrap()
    };
    let shown = |returned: &str| kernels(&grouped(&graph(returned)).unwrap());
    // The keys leave the graph in another order, the values behind others.
    assert_eq!(shown("kh, c"), ["q kh c = matmul add matmul add matmul add concat", "s = matmul"]);
    assert_eq!(shown("t"), ["q k t = matmul add matmul add matmul add relu", "s = matmul"]);
    // What nothing reads is not computed.
    assert_eq!(shown("s"), ["q = matmul add", "k = matmul add", "s = matmul"]);
}

#[test]
fn a_kernel_does_not_wait_for_itself() {
    // What the second product is multiplied by depends on the first.
    let graph = parse(
        "graph g(x: f32[64, 256]) {
            const v: f32[256, 256] = random(1)
            const w: f32[256, 256] = random(2)
            q = matmul(x, v)
            e = softmax[axes=[1]](q)
            k = matmul(x, w)
            y = mul(k, e)
            return q, y
        }",
    );
    let found = grouped(&graph.unwrap()).unwrap();
    assert_eq!(kernels(&found), ["q = matmul", "e = softmax", "y = matmul mul"], "{found}");
}

#[test]
fn no_part_of_a_kernel_reads_what_another_computes_on_its_way() {
    // The sum is cheap, so both results would take it in, and with it the first product on the way to one of them.
    let graph = parse(
        "graph g(x: f32[64, 256]) {
            const v: f32[256, 256] = random(1)
            const w: f32[256, 256] = random(2)
            const b: f32[256] = random(3)
            q = matmul(x, v)
            r = add(q, b)
            y = relu(r)
            k = matmul(x, w)
            z = mul(k, r)
            return y, z
        }",
    );
    let found = grouped(&graph.unwrap()).unwrap();
    assert_eq!(kernels(&found), ["q = matmul", "y = add relu", "z = add matmul mul"], "{found}");
}

#[test]
fn columns_that_lie_apart_are_stored_first() {
    // Of the channels of a pixel shuffle two stay side by side; stored by the product they would be vectors of two elements.
    let shuffled = |channels: usize| {
        let text = format!(
            "graph g(x: f32[1, 64, 64, 24]) {{
                const w: f32[1, 1, 24, {all}] = random(1)
                c = conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], layout=last](x, w)
                s = reshape[shape=[1, 64, 64, 2, {channels}]](c)
                t = transpose[perm=[0, 3, 1, 2, 4]](s)
                return t
            }}",
            all = 2 * channels
        );
        kernels(&grouped(&parse(&text).unwrap()).unwrap())
    };
    assert_eq!(shuffled(2), ["c = conv", "t = "]);
    assert_eq!(shuffled(64), ["t = conv"]);
}

#[test]
fn what_is_dear_is_computed_once_and_what_is_cheap_again() {
    let kernels = |op: &str| {
        let text = format!(
            "graph g(x: f32[64, 256], y: f32[64, 256], z: f32[64, 256]) {{
                t = {op}(x)
                a = mul(y, t)
                b = mul(z, t)
                p = reduce_sum[axes = [1]](a)
                q = reduce_sum[axes = [1]](b)
                return p, q
            }}"
        );
        grouped(&parse(&text).unwrap()).unwrap().nodes().len()
    };
    assert_eq!(kernels("relu"), 2);
    assert_eq!(kernels("tan"), 3);
}

#[test]
fn long_chains_are_cut_and_choices_without_end_are_admitted() {
    let mut graph = Graph::new("g");
    let x = graph.add_param("x", TensorType::new(DType::F32, [4, 4]));
    let mut v = x;
    for _ in 0..2000 {
        v = graph.add("v", Op::relu, &[v]).unwrap();
    }
    graph.add_result(v, "y");
    let context = Context::default();
    let found = group(&graph, &context).unwrap();
    assert_eq!(found.nodes().len(), 2000usize.div_ceil(64));
    assert_eq!(context.notes.borrow().remarks, [""; 0]);

    // Each of ten values can be stored or computed again by two that read it.
    let mut text = "graph g(x: f32[4, 4]) {\n".to_string();
    let sums = |name: &str, last: &str| {
        (0..10)
            .map(|i| format!("{name}{i} = add({name}{}, e{i})\n", if i == 0 { last.to_string() } else { (i - 1).to_string() }))
            .collect::<String>()
    };
    (0..10).for_each(|i| text += &format!("const c{i}: f32[4] = random({i})\ne{i} = add(x, c{i})\n"));
    text += &format!("a_ = relu(x)\nb_ = exp(x)\n{}{}", sums("a", "_"), sums("b", "_"));
    text += "return a9, b9 }";
    let context = Context::default();
    group(&parse(&text).unwrap(), &context).unwrap();
    assert_eq!(context.notes.borrow().remarks, ["there may be a faster way to share kernels"]);
}

#[test]
fn constants_of_one_element_do_not_count_as_read() {
    let mut graph = Graph::new("g");
    let x = graph.add_param("x", TensorType::new(DType::F32, [4]));
    let two = graph.add_const("two", Tensor::scalar(DType::F32, Element::Float(2.0)));
    let y = graph.add("y", Op::mul, &[x, two]).unwrap();
    graph.add_result(y, "y");
    let network = Network::plain(&graph).unwrap();
    let group = Group::of(&network, network.needed()[0]);
    assert_eq!(group.inputs(&network), [x]);
}
