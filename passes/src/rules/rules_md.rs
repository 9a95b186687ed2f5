//! The page RULES.md, printed from the rules: a section per family, a row per rule.
//!
//! Invariant: the page says nothing that the rules and their counts do not, so it is never edited by hand; a test compares it.

use super::{Rule, families};
use std::collections::BTreeMap;

const INTRODUCTION: &str = "\
<!-- Printed from passes/src/rules/ by `EGRET_BLESS=1 cargo test --test rules_md`; do not edit. -->

# Rules

Every rewrite rule, from the files that declare them. A rule is an equation read from left to right, true where its guard
holds. Its class says how far the sides may differ:

| class | difference |
| --- | --- |
| exact | none, but for the sign of a NaN |
| ulp | the last bits of an element, the sign of zero |
| reassoc | the same mathematics, other roundings |
| approx | more than rounding; applied only when asked for |

`(finite)` holds where all values are finite numbers and scores stay far above the numbers that hide them. Each rule is proved
by a test of its name on random instances, and whole e-graphs are cross-checked. The last column counts how often a rule made
something equal that was not before, in the models of `examples/models/`.
";

/// The text of RULES.md, given how often each rule fired.
pub fn rules_md(fired: &BTreeMap<String, usize>) -> String {
    let mut page = INTRODUCTION.to_string();
    for family in families() {
        page += &format!(
            "\n## {}\n\n{}\n\n| rule | class | equation | guard | fired |\n| --- | --- | --- | --- | --- |\n",
            family.name, family.doc
        );
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        family.rules.iter().for_each(|rule| *named.entry(rule.name).or_default() += 1);
        for rule in &family.rules {
            // Of the rules of one line the first stands for all.
            if let Some(members) = named.remove(rule.name) {
                page += &row(rule, members, fired.get(rule.name).copied().unwrap_or(0));
            }
        }
    }
    page
}

fn row(rule: &Rule, members: usize, fired: usize) -> String {
    let equation = format!("{} => {}", rule.lhs, rule.rhs);
    let (name, equation) = match rule.member {
        Some(member) => (format!("{}, for {members} ops `f`", rule.name), equation.replace(&format!("{member}("), "f(")),
        None => (rule.name.to_string(), equation),
    };
    let guard = if rule.condition.is_empty() { String::new() } else { format!("`{}`", tidy(rule.condition)) };
    let class = format!("{}{}", rule.class.name(), if rule.finite { " (finite)" } else { "" });
    let fired = if fired == 0 { String::new() } else { fired.to_string() };
    format!("| {name} | {class} | `{equation}` | {guard} | {fired} |\n")
}

/// A guard without the spaces that the macro leaves in it.
fn tidy(guard: &str) -> String {
    guard.replace(" (", "(").replace("&&", " && ").replace("  ", " ")
}
