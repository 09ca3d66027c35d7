//! Twenty computers from two sticks: who they are, what each leaves on its stick, and what becomes of that at home.
//!
//! Each stands for an installation that ran from memory: it draws its identity, puts its report on the stick with the code of the
//! agent, and the stick goes on to the next. That the computers of one stick write at the same time is harder than what sticks go
//! through.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use akene_agent::fetch::medium::stick::{Stick, Where};
use akene_agent::fetch::mint;
use akene_agent::report::Reporter;
use akene_agent::run::letter::{Desk, Sender};
use akene_exec::SystemRunner;
use akene_protocol::api::Identity;
use akene_protocol::event::Phase;
use akene_protocol::medium::{self, Medium, MediumId};
use akene_protocol::{AssetNumber, Envelope, MachineId, PublicKey, RunId};
use akene_server::site::media::{self, Registered};
use akene_tests::stick::reports;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::rig::{ASSOCIATION, Rig, minted};

/// The computers of a stick.
const EACH: u8 = 10;

/// A stick that the site knows.
struct Made {
    id: MediumId,
    dir: PathBuf,
}

impl Made {
    fn new(rig: &Rig, n: u8, machines: u32) -> Made {
        let (own, id) = (SigningKey::from_bytes(&[40 + n; 32]), MediumId([40 + n; 8]));
        let (made, key) = (Timestamp::now() - SignedDuration::from_hours(48), PublicKey(own.verifying_key()));
        let registered = Registered::new(id, &format!("stick {n}"), key, made, machines, 400).unwrap();
        media::register(&rig.site, &registered).unwrap();
        let dir = rig.directory(&format!("stick-{n}"), &[]);
        let manifest = Medium {
            version: medium::VERSION,
            id,
            site: "test".into(),
            made,
            key,
            associations: vec![ASSOCIATION.into()],
            profiles: vec![],
            files: vec![],
        };
        let signed = serde_json::to_vec(&Envelope::sign(&manifest, &rig.site.key().unwrap())).unwrap();
        fs::write(dir.join("akene").join(medium::MANIFEST), signed).unwrap();
        let pem = own.to_pkcs8_pem(Default::default()).unwrap();
        fs::write(dir.join("akene").join(medium::KEY), &**pem).unwrap();
        Made { id, dir }
    }

    fn reports(&self) -> PathBuf {
        self.dir.join(medium::DIR).join(medium::REPORTS)
    }
}

/// A computer that was installed, and from which stick.
struct Computer {
    who: Identity,
    run: RunId,
    medium: MediumId,
}

/// Installs one. `label` is the number on its case.
fn install(rig: &Rig, from: &Made, n: u8, label: Option<AssetNumber>) -> Computer {
    let key = PublicKey(rig.site.key().unwrap().verifying_key());
    let mut stick = Stick::find(&Where::In(from.dir.clone()), &key, &SystemRunner).unwrap().unwrap();
    let mut who = mint::identity().unwrap();
    who.asset = label.unwrap_or(who.asset);
    let sender = Sender {
        medium: stick.manifest().id,
        key: stick.key().clone(),
        association: Some(ASSOCIATION.into()),
        labelled: label.is_some(),
    };
    let mut desk = Desk::new(sender, rig.home.seal.clone());
    // A board and a disk of its own each.
    desk.inventory(&rig.report(&minted(n, 1), n).inventory);
    let reporter = Reporter::for_new_run().unwrap();
    reporter.start_courier().unwrap();
    let stranger = desk.name_of_stranger().unwrap();
    let put = |stick: &mut Stick, name: &str, earlier: Option<&str>| {
        let events = reporter.courier().unwrap().pending().unwrap();
        let sealed = desk.report(&who, reporter.run(), events, Some("it was installed\n".into())).unwrap();
        stick.write_report(name, earlier, &sealed, &SystemRunner, &mut || {}).unwrap();
    };
    reporter.phase(Phase::Consent);
    put(&mut stick, &stranger, None);
    reporter.phase(Phase::Commit);
    reporter.phase(Phase::Restart);
    reporter.installed();
    put(&mut stick, &reporter.run().to_string(), Some(&stranger));
    let run = reporter.run();
    Computer { who, run, medium: from.id }
}

/// Twenty at the same time; on one of each stick somebody typed the same number.
fn install_twenty(rig: &Rig, sticks: &[Made; 2]) -> Vec<Computer> {
    let label = |n: u8| (n % EACH == 3).then(|| AssetNumber::new(4711));
    let computers: Vec<Computer> = std::thread::scope(|scope| {
        let begin = |n| scope.spawn(move || install(rig, &sticks[usize::from(n / EACH)], n, label(n)));
        let installing: Vec<_> = (0..2 * EACH).map(begin).collect();
        installing.into_iter().map(|computer| computer.join().unwrap()).collect()
    });
    for stick in sticks {
        let names: BTreeSet<String> =
            reports(&stick.reports()).unwrap().into_iter().map(|(name, _)| name).collect();
        let runs = computers.iter().filter(|c| c.medium == stick.id).map(|c| format!("{}.sealed", c.run));
        assert_eq!(names, runs.collect(), "one for each computer");
        assert_eq!(names.len(), usize::from(EACH));
    }
    assert_eq!(computers.iter().map(|c| c.who.machine).collect::<BTreeSet<_>>().len(), 2 * usize::from(EACH));
    computers
}

fn members(rig: &Rig) -> Vec<Value> {
    serde_json::from_str(&rig.server_command(&["machines"], &["--json"])).unwrap()
}

fn ids(members: &[Value]) -> BTreeSet<MachineId> {
    members.iter().map(|m| m["machine"].as_str().unwrap().parse().unwrap()).collect()
}

/// Each computer is a member once, with everything it said, by the stick it came from, with a number that no other has.
fn all_are_members(rig: &Rig, computers: &[Computer]) {
    let members = members(rig);
    assert_eq!(members.len(), computers.len());
    let numbers: BTreeMap<&str, usize> = members.iter().fold(BTreeMap::new(), |mut numbers, member| {
        *numbers.entry(member["asset"].as_str().unwrap()).or_default() += 1;
        numbers
    });
    assert!(numbers.values().all(|n| *n == 1), "{numbers:?}");
    let mut kept = BTreeSet::new();
    for Computer { who, run, medium } in computers {
        let shown = rig.shown(who).unwrap();
        assert_eq!((&shown["state"], &shown["run"]), (&"installed".into(), &run.to_string().into()));
        assert_eq!(
            (&shown["medium"], &shown["association"]),
            (&medium.to_string().into(), &ASSOCIATION.into())
        );
        if shown["asset"] == who.asset.to_string() {
            kept.insert(who.asset);
        }
        let events = shown["events"].as_array().unwrap();
        let seqs: Vec<u64> = events.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
        assert_eq!(events.last().unwrap()["type"], "installed");
    }
    // The two with one label are sure to meet. Others may: six digits are drawn.
    let numbers: BTreeSet<AssetNumber> = computers.iter().map(|computer| computer.who.asset).collect();
    assert!(numbers.len() < computers.len());
    assert_eq!(kept, numbers, "of those with one number one keeps it, and only the others get another");
}

fn joined(rig: &Rig, stick: &Made) -> String {
    let list = rig.server_command(&["media", "list"], &[]);
    list.lines().find(|line| line.starts_with(&stick.id.to_string())).unwrap().to_owned()
}

#[test]
fn twenty_computers_from_two_sticks_are_twenty_members_whichever_stick_comes_home_first() {
    for order in [[0, 1], [1, 0]] {
        let rig = Rig::new();
        let sticks = [Made::new(&rig, 1, 100), Made::new(&rig, 2, 100)];
        let computers = install_twenty(&rig, &sticks);
        let away = rig.dir.path().join("away");
        copy(&sticks[order[0]].reports(), &away);
        for (n, at) in order.into_iter().enumerate() {
            let said = rig.sync(&sticks[at].dir, &[]).unwrap();
            assert_eq!(said.lines().filter(|line| line.contains(ASSOCIATION)).count(), 10, "{said}");
            assert_eq!(reports(&sticks[at].reports()).unwrap().len(), 0);
            assert_eq!(members(&rig).len(), (n + 1) * usize::from(EACH));
        }
        all_are_members(&rig, &computers);
        for stick in &sticks {
            assert!(joined(&rig, stick).contains("10 of 100 computers joined"), "{}", joined(&rig, stick));
        }
        // The first comes home once more, as if nothing had been removed from it.
        let before = members(&rig);
        copy(&away, &sticks[order[0]].reports());
        let said = rig.sync(&sticks[order[0]].dir, &[]).unwrap();
        assert_eq!(said.lines().filter(|line| line.contains("  0 events")).count(), 10, "{said}");
        assert_eq!((ids(&members(&rig)), members(&rig).len()), (ids(&before), before.len()));
        all_are_members(&rig, &computers);
    }
}

#[test]
fn a_stick_that_is_used_up_takes_nothing_from_the_other() {
    let rig = Rig::new();
    let sticks = [Made::new(&rig, 1, 100), Made::new(&rig, 2, 8)];
    let computers = install_twenty(&rig, &sticks);
    let said = rig.sync(&sticks[1].dir, &[]).unwrap();
    assert_eq!(said.lines().filter(|line| line.contains("waiting")).count(), 2, "{said}");
    rig.sync(&sticks[0].dir, &[]).unwrap();
    let there = ids(&members(&rig));
    assert_eq!(there.len(), 18);
    assert!(joined(&rig, &sticks[1]).contains("used up  8 of 8"), "{}", joined(&rig, &sticks[1]));
    assert!(joined(&rig, &sticks[0]).contains("10 of 100"), "{}", joined(&rig, &sticks[0]));
    let all: BTreeSet<MachineId> = computers.iter().map(|c| c.who.machine).collect();
    for waits in all.difference(&there) {
        let said = rig.server_command(&["machine", "admit"], &[&waits.to_string()]);
        assert!(said.contains("has joined"), "{said}");
    }
    all_are_members(&rig, &computers);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (name, sealed) in reports(from).unwrap() {
        fs::write(to.join(name), sealed).unwrap();
    }
}
