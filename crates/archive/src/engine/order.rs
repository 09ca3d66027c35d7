//! Which packages can be laid next. Pure.
//!
//! A package's `preinst` may use what it pre-depends on, which has to be configured by then. Only packages
//! with such a script therefore ever wait; all others are laid at once.
//!
//! Some use what they merely depend on (`adduser`, in usbmuxd's of Ubuntu 24.04), and get away with it, because apt unpacks
//! dependencies first wherever that is possible. So it is done here.

use std::collections::BTreeSet;

/// What order depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Names it stands for.
    pub provides: BTreeSet<String>,
    /// What must be configured before its first script runs; empty for a package without that script.
    pub before: BTreeSet<String>,
    /// What should at least be unpacked by then; empty for a package without that script.
    pub after: BTreeSet<String>,
    /// What must be there when it is configured.
    pub depends: BTreeSet<String>,
}

/// How far a package has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Unpacked,
    Configured,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Lay these.
    Lay(Vec<usize>),
    /// Configure these, for the scripts of others.
    Configure(Vec<usize>),
    /// All are laid.
    Done,
}

/// Decides the next step. Always comes to an end: each step takes at least one package further.
pub(super) fn next(needs: &[Needs], states: &[State]) -> Step {
    let waiting: Vec<usize> = (0..needs.len()).filter(|p| states[*p] == State::Waiting).collect();
    if waiting.is_empty() {
        return Step::Done;
    }
    let unmet = |p: usize| -> Vec<usize> {
        let others = (0..needs.len()).filter(|o| *o != p && states[*o] != State::Configured);
        others.filter(|o| !needs[*o].provides.is_disjoint(&needs[p].before)).collect()
    };
    let waits_for = |p: usize| {
        waiting.iter().copied().find(|o| *o != p && !needs[*o].provides.is_disjoint(&needs[p].after))
    };
    let unmet: Vec<(usize, Vec<usize>)> = waiting.iter().map(|p| (*p, unmet(*p))).collect();
    let may: Vec<usize> = unmet.iter().filter(|(_, u)| u.is_empty()).map(|(p, _)| *p).collect();
    let ready: Vec<usize> = may.iter().copied().filter(|p| waits_for(*p).is_none()).collect();
    if !ready.is_empty() {
        return Step::Lay(ready);
    }
    // Those that only wait for what is laid already, with all it depends on.
    for (_, wanted) in unmet.iter().filter(|(_, wanted)| !wanted.is_empty()) {
        let closure = closure(needs, states, wanted);
        if closure.iter().all(|p| states[*p] == State::Unpacked) {
            return Step::Configure(closure);
        }
    }
    // Some wait for each other: one of them goes on with what there is, as with apt, and none that only waits behind them.
    let mut at = may.first().copied().unwrap_or(unmet[0].0);
    let mut met = BTreeSet::new();
    while met.insert(at)
        && let Some(next) = waits_for(at).filter(|next| may.contains(next))
    {
        at = next;
    }
    Step::Lay(vec![at])
}

/// The packages and everything they depend on that is not configured, in order.
pub(super) fn closure(needs: &[Needs], states: &[State], of: &[usize]) -> Vec<usize> {
    let mut found: BTreeSet<usize> = of.iter().copied().collect();
    let mut look: Vec<usize> = of.to_vec();
    while let Some(p) = look.pop() {
        let wanted: BTreeSet<&String> = needs[p].depends.iter().chain(&needs[p].before).collect();
        for other in (0..needs.len()).filter(|o| states[*o] != State::Configured) {
            if needs[other].provides.iter().any(|name| wanted.contains(name)) && found.insert(other) {
                look.push(other);
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn needs(name: &str, before: &[&str], depends: &[&str]) -> Needs {
        let set = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        Needs { provides: set(&[name]), before: set(before), after: set(&[]), depends: set(depends) }
    }

    /// One with a script.
    fn scripted(name: &str, before: &[&str], depends: &[&str]) -> Needs {
        let needs = needs(name, before, depends);
        Needs { after: needs.depends.clone(), ..needs }
    }

    /// Carries the steps out and gives them.
    fn run(needs: &[Needs]) -> Vec<Step> {
        let mut states = vec![State::Waiting; needs.len()];
        let mut steps = Vec::new();
        loop {
            let step = next(needs, &states);
            match &step {
                Step::Lay(these) => these.iter().for_each(|p| {
                    assert_eq!(states[*p], State::Waiting);
                    states[*p] = State::Unpacked;
                }),
                Step::Configure(these) => these.iter().for_each(|p| {
                    assert_eq!(states[*p], State::Unpacked);
                    states[*p] = State::Configured;
                }),
                Step::Done => return steps,
            }
            steps.push(step);
            assert!(steps.len() <= 2 * needs.len(), "{steps:?}");
        }
    }

    #[test]
    fn what_has_no_script_never_waits() {
        let all = [needs("a", &[], &["b"]), needs("b", &[], &["a"]), needs("c", &[], &[])];
        assert_eq!(run(&all), [Step::Lay(vec![0, 1, 2])]);
    }

    #[test]
    fn a_script_waits_until_what_it_uses_is_configured_with_its_dependencies() {
        let all = [needs("kernel", &["hooks"], &[]), needs("hooks", &[], &["lib"]), needs("lib", &[], &[])];
        assert_eq!(run(&all), [Step::Lay(vec![1, 2]), Step::Configure(vec![1, 2]), Step::Lay(vec![0])]);
    }

    #[test]
    fn scripts_that_wait_for_each_other_go_on() {
        let all = [needs("a", &["b"], &[]), needs("b", &["a"], &[])];
        assert_eq!(run(&all), [Step::Lay(vec![0]), Step::Lay(vec![1])]);
        let all = [scripted("a", &[], &["b"]), scripted("b", &[], &["a"]), scripted("c", &[], &["b"])];
        assert_eq!(run(&all), [Step::Lay(vec![0]), Step::Lay(vec![1]), Step::Lay(vec![2])]);
        let all = [scripted("c", &[], &["b"]), scripted("a", &[], &["b"]), scripted("b", &[], &["a"])];
        assert_eq!(run(&all), [Step::Lay(vec![2]), Step::Lay(vec![0, 1])]);
    }

    #[test]
    fn what_a_script_may_call_by_mistake_is_there() {
        let all = [
            scripted("daemon", &[], &["adduser"]),
            needs("adduser", &[], &["passwd"]),
            needs("passwd", &[], &[]),
        ];
        assert_eq!(run(&all), [Step::Lay(vec![1, 2]), Step::Lay(vec![0])]);
    }

    proptest! {
        /// Every package is laid once; a script runs before what it needs only where that is a cycle.
        #[test]
        fn everything_is_laid_and_in_order(
            edges in proptest::collection::vec((0usize..12, 0usize..12, any::<bool>()), 0..40),
        ) {
            let mut all: Vec<Needs> = (0..12).map(|n| needs(&format!("p{n}"), &[], &[])).collect();
            for (from, to, before) in &edges {
                let name = format!("p{to}");
                match before {
                    // Without cycles: only on later ones.
                    true if to > from => all[*from].before.insert(name),
                    true => false,
                    false => all[*from].depends.insert(name),
                };
            }
            // Dependencies may lead back, so a cycle is possible through them; drop those.
            for (at, one) in all.iter_mut().enumerate() {
                one.depends.retain(|d| d[1..].parse::<usize>().unwrap() > at);
                if at % 2 == 0 {
                    one.after = one.depends.clone();
                }
            }
            let steps = run(&all);
            let (mut laid, mut there) = (BTreeSet::new(), BTreeSet::new());
            let mut configured = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Lay(these) => for p in these {
                        prop_assert!(all[p].before.iter().all(|b| configured.contains(b)));
                        prop_assert!(all[p].after.iter().all(|b| there.contains(b)));
                        prop_assert!(laid.insert(p));
                    },
                    Step::Configure(these) => for p in these {
                        configured.insert(format!("p{p}"));
                    },
                    Step::Done => {}
                }
                there.extend(laid.iter().map(|p| format!("p{p}")));
            }
            prop_assert_eq!(laid.len(), 12);
        }
    }
}
