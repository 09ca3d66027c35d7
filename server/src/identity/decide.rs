//! Weighing evidence. Pure.

use std::collections::{BTreeMap, BTreeSet};

use akene_protocol::MachineId;

use super::{Evidence, Kind};

/// Who the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No machine we know.
    New,
    /// This one: two independent witnesses and nothing against.
    Same(MachineId),
    /// Perhaps this one, for this reason; a person has to decide.
    Ask(MachineId, String),
}

/// What one witness says about two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Same,
    Different,
    /// One of them has nothing to compare.
    Silent,
}

/// Who the machine with this evidence is, among those that share a value with it. Values without
/// weight must have been taken out on both sides.
pub fn decide(found: &BTreeSet<Evidence>, known: &BTreeMap<MachineId, BTreeSet<Evidence>>) -> Verdict {
    // Board, cards and disks can each be replaced alone: three independent witnesses.
    let opinions: Vec<(MachineId, [Word; 3])> = known
        .iter()
        .map(|(id, theirs)| {
            let words = [
                board(found, theirs),
                parts(found, theirs, &[Kind::Nic]),
                parts(found, theirs, &[Kind::Disk, Kind::Wwn]),
            ];
            (*id, words)
        })
        .filter(|(id, words)| {
            // A board that contradicts itself (serial fits, UUID does not) names nobody.
            words.contains(&Word::Same) || known[id].intersection(found).any(|e| is_board(e.kind))
        })
        .collect();
    let count = |words: &[Word; 3], word| words.iter().filter(|w| **w == word).count();
    let Some((best, words)) = opinions.iter().max_by_key(|(_, words)| count(words, Word::Same)) else {
        return Verdict::New;
    };
    let reason = match (opinions.len(), count(words, Word::Same), words[0]) {
        (2.., ..) => format!("{} machines share parts with it", opinions.len()),
        (1, 2.., Word::Same | Word::Silent) => return Verdict::Same(*best),
        (1, 2.., Word::Different) => {
            "its cards and disks are known, but its board is another: parts were moved".into()
        }
        _ => {
            let names = ["board", "network card", "disk"];
            let same = names.iter().zip(words).filter(|(_, w)| **w == Word::Same).map(|(n, _)| *n).next();
            match same {
                Some(part) => format!("only its {part} is known"),
                None => "its board has some of the numbers of another".into(),
            }
        }
    };
    Verdict::Ask(*best, reason)
}

fn is_board(kind: Kind) -> bool {
    matches!(kind, Kind::Uuid | Kind::System | Kind::Board | Kind::Chassis)
}

/// The board says *same* only when no number of the same kind differs.
fn board(a: &BTreeSet<Evidence>, b: &BTreeSet<Evidence>) -> Word {
    let words: Vec<Word> = [Kind::Uuid, Kind::System, Kind::Board, Kind::Chassis]
        .iter()
        .map(|kind| parts(a, b, &[*kind]))
        .collect();
    match (words.contains(&Word::Different), words.contains(&Word::Same)) {
        (true, _) => Word::Different,
        (false, true) => Word::Same,
        (false, false) => Word::Silent,
    }
}

/// Parts of which there may be several say *same* when one is in both machines.
fn parts(a: &BTreeSet<Evidence>, b: &BTreeSet<Evidence>, kinds: &[Kind]) -> Word {
    let of = |set: &BTreeSet<Evidence>| -> BTreeSet<Evidence> {
        set.iter().filter(|e| kinds.contains(&e.kind)).cloned().collect()
    };
    let (a, b) = (of(a), of(b));
    match (a.is_empty() || b.is_empty(), a.is_disjoint(&b)) {
        (true, _) => Word::Silent,
        (false, true) => Word::Different,
        (false, false) => Word::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(values: &[(Kind, &str)]) -> BTreeSet<Evidence> {
        values.iter().map(|(kind, value)| Evidence { kind: *kind, value: (*value).into() }).collect()
    }

    const A: MachineId = MachineId([0xa; 16]);
    const B: MachineId = MachineId([0xb; 16]);

    fn machine(board: &str, nic: &str, disk: &str) -> BTreeSet<Evidence> {
        set(&[(Kind::System, board), (Kind::Nic, nic), (Kind::Disk, disk)].map(|(k, v)| (k, v)))
            .into_iter()
            .filter(|e| !e.value.is_empty())
            .collect()
    }

    #[test]
    fn the_table_of_cases() {
        let known = |machines: &[(MachineId, BTreeSet<Evidence>)]| machines.iter().cloned().collect();
        let a = machine("SA", "NA", "DA");
        for (name, found, others, expected) in [
            ("nothing known", a.clone(), vec![], "new"),
            ("all the same", a.clone(), vec![(A, a.clone())], "same"),
            ("another disk", machine("SA", "NA", "DX"), vec![(A, a.clone())], "same"),
            ("another card", machine("SA", "NX", "DA"), vec![(A, a.clone())], "same"),
            ("another board", machine("SX", "NA", "DA"), vec![(A, a.clone())], "ask"),
            ("a board without numbers", machine("", "NA", "DA"), vec![(A, a.clone())], "same"),
            ("only the disk moved", machine("SX", "NX", "DA"), vec![(A, a.clone())], "ask"),
            ("only the board speaks", machine("SA", "", ""), vec![(A, a.clone())], "ask"),
            ("two share it", a.clone(), vec![(A, a.clone()), (B, machine("SB", "NB", "DA"))], "ask"),
            ("no evidence", machine("", "", ""), vec![], "new"),
        ] {
            let verdict = match decide(&found, &known(&others)) {
                Verdict::New => "new",
                Verdict::Same(id) => {
                    assert_eq!(id, A, "{name}");
                    "same"
                }
                Verdict::Ask(..) => "ask",
            };
            assert_eq!(verdict, expected, "{name}");
        }
    }

    #[test]
    fn a_board_that_contradicts_itself_is_no_witness() {
        let a = set(&[(Kind::Uuid, "U"), (Kind::System, "SA"), (Kind::Nic, "NA")]);
        let b = set(&[(Kind::Uuid, "U"), (Kind::System, "SB"), (Kind::Nic, "NA")]);
        assert!(matches!(decide(&b, &[(A, a)].into()), Verdict::Ask(id, _) if id == A));
    }
}
