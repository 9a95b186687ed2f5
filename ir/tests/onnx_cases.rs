//! The reference evaluator against node cases of the ONNX standard, which are the outside authority on what the ops mean,
//! and against random cases that ONNX Runtime computed where the standard has none that is small (`ort_..`).
//!
//! `onnx_cases.txt` holds them as text: the op as Egret writes it, then the tensors as `type values...`. Results of which the
//! case says nothing are written `-`.

use egret_ir::expr::Cursor;
use egret_ir::{DType, Element, Op, Tensor};

/// Relative and absolute: ONNX's own values were computed in `f32`.
const RELATIVE: f64 = 1e-5;
const ABSOLUTE: f64 = 1e-6;

#[test]
fn onnx_node_cases_hold() {
    let cases: Vec<&str> = include_str!("onnx_cases.txt").split("case ").skip(1).collect();
    assert!(cases.len() > 80, "only {} cases", cases.len());
    let failures: Vec<String> = cases.iter().filter_map(|case| run(case).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

fn run(case: &str) -> Result<(), String> {
    let mut lines = case.lines();
    let name = lines.next().unwrap_or_default();
    let fail = |e: String| format!("{name}: {e}");
    let (mut op, mut inputs, mut outputs) = (None, vec![], vec![]);
    for line in lines {
        match line.split_once(' ') {
            Some(("op", rest)) => op = Some(parse_op(rest).map_err(fail)?),
            Some(("in", rest)) => inputs.push(parse_tensor(rest).map_err(fail)?),
            Some(("out", "-")) => outputs.push(None),
            Some(("out", rest)) => outputs.push(Some(parse_tensor(rest).map_err(fail)?)),
            _ => {}
        }
    }
    let op = op.ok_or_else(|| fail("no op".into()))?;
    let results = op.eval(&inputs.iter().collect::<Vec<_>>()).map_err(fail)?;
    if results.len() < outputs.len() || outputs.is_empty() {
        return Err(fail(format!("{} results, expected {}", results.len(), outputs.len())));
    }
    for (i, (result, expected)) in results.iter().zip(&outputs).enumerate() {
        expected
            .as_ref()
            .map_or(Ok(()), |e| compare(result, e))
            .map_err(|e| format!("{name}: result {i}: {e}\n    {result:?}\n    {expected:?}"))?;
    }
    Ok(())
}

fn parse_op(text: &str) -> Result<Op, String> {
    let mut cursor = Cursor::new(text);
    let name = cursor.name()?;
    let attr = |c: &mut Cursor| {
        let name = c.name()?;
        c.expect("=")?;
        Ok((name, c.attr()?))
    };
    let attrs = if cursor.eat("[") { cursor.list("]", attr)? } else { vec![] };
    Op::parse(&name, &attrs)
}

fn parse_tensor(text: &str) -> Result<Tensor, String> {
    let (ty, values) = text.split_once("] ").unwrap_or((text.trim_end_matches(']'), ""));
    let (dtype, shape) = ty.split_once('[').ok_or("expected `type[shape] values`")?;
    let dtype = DType::named(dtype).ok_or_else(|| format!("unknown type {dtype}"))?;
    let shape: Vec<usize> = shape.split(", ").filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect();
    let element = |v: &str| match dtype.is_float() {
        true => Element::Float(v.parse().unwrap()),
        false => Element::Int(v.parse().unwrap()),
    };
    Ok(Tensor::from_elements(dtype, shape, values.split_whitespace().map(element)))
}

fn compare(found: &Tensor, expected: &Tensor) -> Result<(), String> {
    if found.ty() != expected.ty() {
        return Err(format!("{:?}, expected {:?}", found.ty(), expected.ty()));
    }
    let close = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= ABSOLUTE + RELATIVE * b.abs();
    let pairs = found.to_f64s().into_iter().zip(expected.to_f64s());
    match pairs.enumerate().find(|(_, (a, b))| !close(*a, *b)) {
        Some((i, (a, b))) => Err(format!("element {i} is {a}, expected {b}")),
        None => Ok(()),
    }
}
