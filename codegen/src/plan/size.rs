//! Extents of the graph as size programs of the runtime.

use egret_ir::dim::{Atom, Term};
use egret_ir::{DType, Dim, Graph};
use egret_runtime::plan::{DType as PlanType, Size, SizeOp};
use std::sync::Arc;

/// The free symbols of a model, in the order of a plan.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// Their names.
    pub names: Vec<Arc<str>>,
}

/// The symbols that are extents of parameters by themselves, in the order in which they stand there.
pub fn free_symbols(graph: &Graph) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = vec![];
    for dim in graph.params().iter().flat_map(|&p| &graph.ty(p).dims) {
        if let Some(symbol) = dim.as_symbol().filter(|s| !names.contains(s)) {
            names.push(symbol.clone());
        }
    }
    names
}

impl Symbols {
    /// The size that is this extent.
    ///
    /// # Errors
    /// The name of a symbol that the plan does not have.
    pub fn size(&self, d: &Dim) -> Result<Size, Arc<str>> {
        if let Some(c) = d.as_const() {
            return Ok(Size::Const(c));
        }
        let mut program = vec![];
        self.sum(d, &mut program)?;
        Ok(Size::Expr(program))
    }

    fn sum(&self, d: &Dim, program: &mut Vec<SizeOp>) -> Result<(), Arc<str>> {
        if let Some(c) = d.as_const() {
            program.push(SizeOp::Const(c));
        }
        for (i, term) in d.terms().iter().enumerate() {
            self.term(term, program)?;
            if i > 0 {
                program.push(SizeOp::Add);
            }
        }
        Ok(())
    }

    fn term(&self, term: &Term, program: &mut Vec<SizeOp>) -> Result<(), Arc<str>> {
        let factor = (term.coefficient != 1 || term.atoms.is_empty()).then_some(SizeOp::Const(term.coefficient));
        program.extend(factor);
        for (i, atom) in term.atoms.iter().enumerate() {
            self.atom(atom, program)?;
            if i > 0 || factor.is_some() {
                program.push(SizeOp::Mul);
            }
        }
        Ok(())
    }

    fn atom(&self, atom: &Atom, program: &mut Vec<SizeOp>) -> Result<(), Arc<str>> {
        let (a, b, op) = match atom {
            Atom::Symbol(name) => {
                let index = self.names.iter().position(|n| n == name).ok_or_else(|| name.clone())?;
                program.push(SizeOp::Symbol(index as u32));
                return Ok(());
            }
            Atom::Div(a, b) => (a, b, SizeOp::FloorDiv),
            Atom::Mod(a, b) => (a, b, SizeOp::Mod),
            Atom::Max(a, b) => (a, b, SizeOp::Max),
            Atom::Min(a, b) => (a, b, SizeOp::Min),
        };
        self.sum(a, program)?;
        self.sum(b, program)?;
        program.push(op);
        Ok(())
    }
}

/// The runtime's name of an element type.
pub fn element_type(dtype: DType) -> PlanType {
    match dtype {
        DType::F64 => PlanType::F64,
        DType::F32 => PlanType::F32,
        DType::F16 => PlanType::F16,
        DType::BF16 => PlanType::BF16,
        DType::I64 => PlanType::I64,
        DType::I32 => PlanType::I32,
        DType::I16 => PlanType::I16,
        DType::I8 => PlanType::I8,
        DType::U64 => PlanType::U64,
        DType::U32 => PlanType::U32,
        DType::U16 => PlanType::U16,
        DType::U8 => PlanType::U8,
        DType::Bool => PlanType::Bool,
        DType::F8E4M3 => PlanType::F8E4M3,
        DType::F8E4M3FNUZ => PlanType::F8E4M3FNUZ,
        DType::F8E5M2 => PlanType::F8E5M2,
        DType::F8E5M2FNUZ => PlanType::F8E5M2FNUZ,
        DType::F4E2M1 => PlanType::F4E2M1,
        DType::I4 => PlanType::I4,
        DType::U4 => PlanType::U4,
        DType::I2 => PlanType::I2,
        DType::U2 => PlanType::U2,
        DType::Str => PlanType::Str,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_the_value_of_its_extent() {
        let (n, m) = (Dim::symbol("N"), Dim::symbol("M"));
        let symbols = Symbols { names: vec!["N".into(), "M".into()] };
        let extents = [
            n.clone() * 2 + 1,
            n.clone() * m.clone() * -3 + m.clone() * m.clone() - 7,
            (n.clone() + 1).floor_div(&2.into()) * 5,
            n.maximum(&m).modulo(&3.into()) - n.minimum(&7.into()),
            Dim::ZERO,
            Dim::from(-4),
        ];
        for d in extents {
            for (a, b) in [(0, 1), (5, 3), (8, 12)] {
                let bindings = egret_ir::Bindings::from([("N".into(), a), ("M".into(), b)]);
                assert_eq!(symbols.size(&d).unwrap().eval(&[a, b]).ok(), d.eval(&bindings), "{d}");
            }
        }
        assert_eq!(symbols.size(&Dim::symbol("K")).unwrap_err().as_ref(), "K");
    }

    #[test]
    fn element_types_keep_their_names() {
        for dtype in DType::ALL {
            assert_eq!(element_type(dtype).name(), dtype.name());
        }
    }
}
