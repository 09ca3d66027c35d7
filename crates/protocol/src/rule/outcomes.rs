//! Which rules can hold together.
//!
//! A signed lock is made for machines nobody has seen yet. The values at which rules change their mind are in the
//! rules themselves: for each fact they name, a value on each side of every threshold (and none at all, where a
//! machine may lack the fact) is tried with every such value of the other facts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Expr, Fact, Kind, Op, Rule, Value};
use crate::inventory::FirmwareKind;
use crate::size::Bytes;

/// Facts every machine has.
const ALWAYS: [&str; 4] = ["ram", "disk.total", "disk.count", "battery"];

/// All ways in which these rules can hold or not on machines with this firmware, each rule at its place; `None`
/// where more than `most` combinations of facts would have to be tried. Facts are taken for independent of each
/// other: a combination no machine has may be among them, never the other way round, except for cards that match
/// several rules by different addresses.
pub fn outcomes(rules: &[&Rule], firmware: FirmwareKind, most: usize) -> Option<BTreeSet<Vec<bool>>> {
    let mut facts: BTreeMap<&'static str, Vec<Option<Value>>> = BTreeMap::new();
    for rule in rules {
        rule.expr.each(&mut |fact, op, value| {
            let samples = facts.entry(fact.name).or_insert_with(|| first_samples(fact, firmware));
            for sample in around(fact, op, value) {
                if !samples.contains(&Some(sample.clone())) {
                    samples.push(Some(sample));
                }
            }
        });
    }
    let combinations = facts.values().try_fold(1usize, |n, samples| n.checked_mul(samples.len()))?;
    if combinations > most {
        return None;
    }
    let mut found = BTreeSet::new();
    for mut number in 0..combinations {
        let mut chosen: BTreeMap<&str, &Option<Value>> = BTreeMap::new();
        for (name, samples) in &facts {
            chosen.insert(name, &samples[number % samples.len()]);
            number /= samples.len();
        }
        let read = |fact: &'static Fact| -> Vec<Value> {
            chosen.get(fact.name).and_then(|value| (*value).clone()).into_iter().collect()
        };
        found.insert(rules.iter().map(|rule| rule.expr.holds(&read)).collect());
    }
    Some(found)
}

/// What is tried whatever the rule compares with.
fn first_samples(fact: &Fact, firmware: FirmwareKind) -> Vec<Option<Value>> {
    if fact.name == "firmware" {
        let name = match firmware {
            FirmwareKind::Bios => "bios",
            FirmwareKind::Uefi64 => "uefi64",
            FirmwareKind::Uefi32 => "uefi32",
        };
        return vec![Some(Value::Text(name.to_owned()))];
    }
    let mut samples = Vec::new();
    if !ALWAYS.contains(&fact.name) {
        samples.push(None);
    }
    match fact.one_of {
        [] if fact.kind == Kind::Text => samples.push(Some(Value::Text("something else".into()))),
        names => samples.extend(names.iter().map(|name| Some(Value::Text((*name).to_owned())))),
    }
    samples
}

/// Values on both sides of a comparison.
fn around(fact: &Fact, op: Op, value: &Value) -> Vec<Value> {
    let three = |n: u64| [n.saturating_sub(1), n, n.saturating_add(1)];
    match value {
        Value::Size(size) => three(size.0).into_iter().map(|n| Value::Size(Bytes(n))).collect(),
        Value::Number(number) => three(*number).into_iter().map(Value::Number).collect(),
        // All values there are have been tried.
        Value::Text(_) if !fact.one_of.is_empty() => vec![],
        Value::Text(text) => {
            let text = match op {
                Op::Like => text.replace('*', "").replace('?', "x"),
                _ => text.clone(),
            };
            vec![Value::Text(text)]
        }
    }
}

impl Expr {
    fn each<'r>(&'r self, tell: &mut impl FnMut(&'static Fact, Op, &'r Value)) {
        match self {
            Expr::Or(a, b) | Expr::And(a, b) => {
                a.each(tell);
                b.each(tell);
            }
            Expr::Not(a) => a.each(tell),
            Expr::Compare { fact, op, value } => tell(fact, *op, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &[&str], firmware: FirmwareKind) -> Vec<String> {
        let rules: Vec<Rule> = rules.iter().map(|r| r.parse().unwrap()).collect();
        let rules: Vec<&Rule> = rules.iter().collect();
        let show = |holds: &Vec<bool>| holds.iter().map(|h| if *h { '1' } else { '0' }).collect();
        outcomes(&rules, firmware, 10_000).unwrap().iter().map(show).collect()
    }

    #[test]
    fn only_what_can_hold_together_is_found() {
        let bios = FirmwareKind::Bios;
        assert_eq!(of(&["ram < 2 GiB", "ram >= 2 GiB"], bios), ["01", "10"]);
        assert_eq!(of(&["ram < 2 GiB", "ram < 4 GiB"], bios), ["00", "01", "11"]);
        assert_eq!(of(&["ram < 2 GiB", "disk.total < 20 GB"], bios), ["00", "01", "10", "11"]);
        assert_eq!(of(&["firmware = bios"], bios), ["1"]);
        assert_eq!(of(&["firmware = bios"], FirmwareKind::Uefi64), ["0"]);
        // A machine without the fact satisfies neither.
        assert_eq!(of(&["cpu.level >= 3", "cpu.level < 3"], bios), ["00", "01", "10"]);
        assert_eq!(of(&["vendor ~ \"dell*\"", "vendor ~ \"*hp*\""], bios), ["00", "01", "10"]);
        assert_eq!(of(&["ram = 2 GiB or battery > 0", "not ram = 2 GiB"], bios), ["01", "10", "11"]);
        assert_eq!(of(&[], bios), [""]);
    }

    #[test]
    fn too_many_are_not_tried() {
        let rules: Vec<Rule> = ["ram < 1 GiB", "disk.total < 1 GB", "vendor = x", "product = y"]
            .map(|r| r.parse().unwrap())
            .into();
        let rules: Vec<&Rule> = rules.iter().collect();
        assert!(outcomes(&rules, FirmwareKind::Bios, 10).is_none());
    }
}
