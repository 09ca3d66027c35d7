//! Machines enrolling, asking, reporting: over real TLS on a loopback port.
#![allow(missing_docs)]

mod common;

use akene_protocol::api::{Consent, EnrolRequest, EventBatch, Grant, Recognised, RunRequest};
use akene_protocol::event::{EventKind, Phase};
use akene_protocol::profile::Bundle;
use akene_protocol::{Issue, RunId, Secret};
use common::*;

#[test]
fn from_enrolment_to_confirmation() {
    let rig = Rig::new();
    let machine = inventory(1);
    let enrolled = rig.enrol(&machine);
    assert_eq!(enrolled.recognised, Recognised::New);
    assert_eq!(enrolled.identity.asset.to_string(), "1001-6");
    let who = enrolled.identity;

    let answer = rig.run(&who, run_id(1), &machine);
    let key = rig.server().site_key;
    let bundle: Bundle = answer.profile.open(&key).unwrap();
    assert_eq!(bundle.name, "default");
    let grant: Grant = answer.grant.unwrap().open(&key).unwrap();
    assert_eq!((grant.machine, grant.run, grant.consent), (who.machine, run_id(1), Consent::Blank));
    let left = grant.expires.duration_since(jiff::Timestamp::now());
    assert!(left.as_hours() == 5 || left.as_hours() == 6, "{left}");

    let events = good_run(run_id(1));
    let state = || rig.machine(&who)["state"].as_str().unwrap().to_owned();
    assert_eq!(state(), "enrolled");
    assert_eq!(rig.events(&who, &events[..5]), 5);
    assert_eq!(state(), "installing");
    assert_eq!(rig.events(&who, &events[..events.len() - 1]), events.len() - 6);
    assert_eq!(state(), "installed");
    assert_eq!(rig.events(&who, &events), 1);
    assert_eq!(state(), "confirmed");
    let shown = rig.machine(&who);
    assert_eq!(shown["system"], "Debian GNU/Linux 12");
    assert_eq!(shown["plan"]["disks"][0], "sda");
    assert_eq!(shown["events"].as_array().unwrap().len(), events.len());
    assert_eq!(rig.admin("/v1/admin/machines")["machines"].as_array().unwrap().len(), 1);
}

#[test]
fn the_disks_are_drawn_from_the_inventory_or_as_they_were_planned() {
    let rig = Rig::new();
    let url = |who: &akene_protocol::api::Identity, of: &str| {
        rig.url(&format!("{of}/machines/{}/plan.svg", who.machine))
    };
    let get =
        |url: String| rig.client.get(url).bearer_auth(rig.server().admin_token.expose()).send().unwrap();
    let mut machine = inventory(1);
    machine.disks = vec![disk(Some("</text><script>"), Some("</text><script>"))];
    let who = rig.enrol(&machine).identity;
    refused(rig.client.get(url(&who, "/v1/admin")).send().unwrap(), 401, "admin-token-refused");
    let answer = get(url(&who, "/v1/admin"));
    assert_eq!(answer.headers()["content-type"], "image/svg+xml; charset=utf-8");
    let computed = answer.text().unwrap();
    assert!(computed.starts_with("<svg ") && computed.contains("sda6: /home (ext4, "), "{computed}");
    assert!(!computed.contains("<script"), "{computed}");
    assert_eq!(get(url(&who, "")).text().unwrap(), computed);
    let page = get(rig.url(&format!("/machines/{}", who.machine))).text().unwrap();
    assert!(page.contains(&computed), "{page}");

    // What the machine really planned counts more than what would be planned for it now.
    let wishes = rig.run(&who, run_id(1), &machine).profile.open::<Bundle>(&rig.server().site_key).unwrap();
    let storage = akene_protocol::resolve::resolve(&wishes, &machine, None).unwrap().storage;
    let mut plan = akene_planner::plan(&storage, &machine).unwrap();
    plan.notes.push("planned on the machine itself".into());
    let planned = EventKind::Planned { plan: serde_json::to_value(&plan).unwrap() };
    rig.events(&who, &[event(run_id(1), 1, planned)]);
    assert!(get(url(&who, "/v1/admin")).text().unwrap().contains("planned on the machine itself"));

    // A machine nothing can be planned for is drawn with the reason.
    let bare = rig.enrol(&inventory(2)).identity;
    let refused = get(url(&bare, "/v1/admin")).text().unwrap();
    assert!(refused.contains("this computer has no disk to install onto"), "{refused}");
}

#[test]
fn events_may_come_twice_late_and_in_any_order() {
    let rig = Rig::new();
    let who = rig.enrol(&inventory(1)).identity;
    // Before the run was asked for: the network phase comes before the server is reached.
    let mut events = good_run(run_id(1));
    events.reverse();
    assert_eq!(rig.events(&who, &events[..1]), 1);
    assert_eq!(rig.machine(&who)["state"], "confirmed");
    assert_eq!(rig.events(&who, &events), events.len() - 1);
    assert_eq!(rig.events(&who, &events), 0);
    assert_eq!(rig.machine(&who)["state"], "confirmed");
    let seqs: Vec<u64> =
        rig.machine(&who)["events"].as_array().unwrap().iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted(), "{seqs:?}");
}

#[test]
fn a_run_asked_for_again_is_answered_the_same_until_it_ends() {
    let rig = Rig::new();
    let machine = inventory(1);
    let who = rig.enrol(&machine).identity;
    let first = rig.run(&who, run_id(1), &machine);
    // The administrator edits meanwhile: the run keeps what it began with.
    let profile = rig.site_dir().join("profiles/default.toml");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, text.replace("en_US.UTF-8", "fr_FR.UTF-8")).unwrap();
    let again = rig.run(&who, run_id(1), &machine);
    assert_eq!(again.profile, first.profile);
    let key = rig.server().site_key;
    assert_eq!(again.grant.unwrap().open::<Grant>(&key).unwrap().consent, Consent::Blank);
    let other = rig.run(&who, run_id(2), &machine);
    let locale = |e: &akene_protocol::Envelope| e.open::<Bundle>(&key).unwrap().profile.locale.unwrap();
    assert_eq!(
        (locale(&first.profile), locale(&other.profile)),
        ("en_US.UTF-8".into(), "fr_FR.UTF-8".into())
    );

    let failed = EventKind::Failed { phase: Phase::Stage, issues: vec![], disks_changed: false };
    rig.events(&who, &[event(run_id(1), 1, failed)]);
    let over = rig.run(&who, run_id(1), &machine);
    assert!(over.grant.is_none());
    assert_eq!(over.refusal.unwrap().code, "run-over");
}

#[test]
fn an_installed_machine_needs_a_persons_word_and_that_counts_once() {
    let rig = Rig::new();
    let machine = inventory(1);
    let who = rig.enrol(&machine).identity;
    rig.run(&who, run_id(1), &machine);
    rig.events(&who, &good_run(run_id(1)));

    let refused = rig.run(&who, run_id(2), &machine);
    assert!(refused.grant.is_none());
    let issue = refused.refusal.unwrap();
    assert_eq!(issue.code, "already-installed");
    assert!(issue.next.contains("akene-server allow SITE 1001-6"), "{issue}");
    assert!(rig.machine(&who)["words"].as_str().unwrap().starts_with("waits: "));

    rig.allow(&who, "wipe");
    let key = rig.server().site_key;
    // The very run that was refused gets it: the machine stands there and waits.
    let granted = rig.run(&who, run_id(2), &machine).grant.unwrap().open::<Grant>(&key).unwrap();
    assert_eq!((granted.run, granted.consent), (run_id(2), Consent::Wipe));
    assert!(rig.run(&who, run_id(3), &machine).grant.is_none());
}

#[test]
fn a_wrong_token_gets_one_answer_for_every_reason() {
    let rig = Rig::new();
    let site = akene_server::site::Site::open(&rig.site_dir()).unwrap();
    let mut tokens = site.tokens().unwrap();
    let (_, expired) = tokens.add("", Some(jiff::Timestamp::UNIX_EPOCH)).unwrap();
    let (id, revoked) = tokens.add("", None).unwrap();
    tokens.revoke(&id).unwrap();
    site.write_tokens(&tokens).unwrap();
    let enrol =
        |token: Secret| rig.post("/v1/enrol", &EnrolRequest { token, known: None, inventory: inventory(1) });
    let answers: Vec<Issue> = [Secret::new(""), Secret::new("x"), expired, revoked.clone()]
        .map(|token| refused(enrol(token), 401, "token-refused"))
        .into();
    assert!(answers.windows(2).all(|w| w[0] == w[1]));
    assert!(rig.admin("/v1/admin/machines")["machines"].as_array().unwrap().is_empty());
    // Guessing on leads to 429; a right token from the same address is not held up.
    let mut last = 0;
    let mut waits = None;
    for _ in 0..30 {
        let answer = enrol(revoked.clone());
        last = answer.status().as_u16();
        waits = answer.headers().get("retry-after").cloned();
        if last == 429 {
            break;
        }
    }
    assert_eq!(last, 429);
    assert!(waits.unwrap().to_str().unwrap().parse::<u64>().unwrap() > 0);
    rig.enrol(&inventory(1));
}

#[test]
fn a_machine_writes_only_its_own_events() {
    let rig = Rig::new();
    let (a, b) = (rig.enrol(&inventory(1)).identity, rig.enrol(&inventory(2)).identity);
    rig.events(&a, &good_run(run_id(1))[..2]);
    let batch = EventBatch { events: good_run(run_id(1)) };
    refused(rig.post_as(&b, "/v1/events", &batch), 403, "run-of-another");
    refused(rig.post_as(&b, "/v1/runs", &request(run_id(1), &inventory(2))), 403, "run-of-another");
    refused(rig.post_as(&b, &format!("/v1/logs/{}/a", run_id(1)), &"x"), 403, "run-of-another");
    assert_eq!(rig.machine(&a)["events"].as_array().unwrap().len(), 2);
    assert_eq!(rig.machine(&b)["run"], serde_json::Value::Null);

    // Another's id with one's own secret is no credential.
    let mut mixed = a.clone();
    mixed.credential = b.credential.clone();
    refused(rig.post_as(&mixed, "/v1/events", &batch), 401, "credential-refused");
    refused(rig.post("/v1/events", &batch), 401, "credential-refused");
}

#[test]
fn who_a_machine_is() {
    let rig = Rig::new();
    let a = rig.enrol(&inventory(1));
    // With identity and credential: the same, credential kept.
    let again = rig.enrol_known(&inventory(1), Some(a.identity.clone()));
    assert_eq!((again.recognised, &again.identity), (Recognised::Same, &a.identity));
    // Its disk was wiped: board and card are two witnesses; the credential is a new one.
    let wiped = rig.enrol(&inventory(1));
    assert_eq!((wiped.recognised, wiped.identity.machine), (Recognised::Same, a.identity.machine));
    assert_ne!(wiped.identity.credential, a.identity.credential);
    // The old one counts on until a granted installation has confirmed itself with the new one.
    rig.run(&wiped.identity, run_id(1), &inventory(1));
    rig.events(&a.identity, &[]);
    rig.events(&wiped.identity, &good_run(run_id(1)));
    let batch = EventBatch { events: vec![] };
    refused(rig.post_as(&a.identity, "/v1/events", &batch), 401, "credential-refused");
    rig.events(&wiped.identity, &[]);

    // Whoever invents the inventory of an installed machine locks nobody out, granted nothing.
    let forged = rig.enrol(&inventory(1)).identity;
    assert!(rig.run(&forged, run_id(9), &inventory(1)).grant.is_none());
    rig.events(&forged, &good_run(run_id(9)));
    rig.events(&wiped.identity, &[]);

    // Only the card is known: ask, which is a new machine with a note and never more than blank disks.
    let mut moved = inventory(7);
    moved.nics = inventory(1).nics;
    let ask = rig.enrol(&moved);
    assert_eq!(ask.recognised, Recognised::Ask);
    assert_ne!(ask.identity.machine, a.identity.machine);
    let shown = rig.machine(&ask.identity);
    assert_eq!(shown["maybe"], a.identity.machine.to_string());
    assert!(shown["notes"][0]["text"].as_str().unwrap().contains("only its network card"), "{shown}");
}

#[test]
fn an_identity_with_a_wrong_credential_is_no_identity() {
    let rig = Rig::new();
    let a = rig.enrol(&inventory(1)).identity;
    let mut forged = a.clone();
    forged.credential = Secret::new("0".repeat(64));
    let stranger = rig.enrol_known(&inventory(2), Some(forged));
    assert_eq!(stranger.recognised, Recognised::New);
    assert_ne!(stranger.identity.machine, a.machine);
}

#[test]
fn doubtful_machines_never_lose_data() {
    let mut options = akene_server::site::init::Options::new("https://127.0.0.1:8443");
    options.new_machines = Consent::Wipe;
    let rig = Rig::with(options);
    let key = rig.server().site_key;
    let consent = |inventory: &akene_protocol::Inventory, n| {
        let who = rig.enrol(inventory).identity;
        rig.run(&who, run_id(n), inventory).grant.unwrap().open::<Grant>(&key).unwrap().consent
    };
    assert_eq!(consent(&inventory(1), 1), Consent::Wipe);
    let mut moved = inventory(7);
    moved.nics = inventory(1).nics;
    assert_eq!(consent(&moved, 2), Consent::Blank);
}

#[test]
fn a_value_of_two_different_machines_counts_no_more() {
    let rig = Rig::new();
    let a = rig.enrol(&inventory(1)).identity;
    let b = rig.enrol(&inventory(2)).identity;
    // A card moves from a to b; both prove who they are, so the card proves nothing any more.
    let mut with_card = inventory(2);
    with_card.nics.extend(inventory(1).nics);
    rig.enrol_known(&with_card, Some(b));
    let mut third = inventory(3);
    third.nics = inventory(1).nics;
    assert_eq!(rig.enrol(&third).recognised, Recognised::New);
    // And a, whose board alone is left as a witness, is asked about.
    assert_eq!(rig.enrol(&inventory(1)).recognised, Recognised::Ask);
    assert_eq!(rig.enrol_known(&inventory(1), Some(a)).recognised, Recognised::Same);
}

#[test]
fn the_profile_is_asked_for_or_chosen_by_rule() {
    let rig = Rig::new();
    let site = rig.site_dir();
    let default = std::fs::read_to_string(site.join("profiles/default.toml")).unwrap();
    std::fs::write(site.join("profiles/small.toml"), &default).unwrap();
    std::fs::write(site.join("profiles/kiosk.toml"), &default).unwrap();
    let toml = std::fs::read_to_string(site.join("site.toml")).unwrap();
    let rules = "requestable-profiles = [\"kiosk\"]\n[[profile-rules]]\nwhen = \"ram < 2 GiB\"\nprofile = \"small\"\n";
    std::fs::write(site.join("site.toml"), toml + rules).unwrap();

    let mut small = inventory(1);
    small.memory.total = akene_protocol::Bytes::gib(1);
    let who = rig.enrol(&small).identity;
    let key = rig.server().site_key;
    let ask = |n, profile: Option<&str>, inventory: &akene_protocol::Inventory| {
        let request = RunRequest {
            run: run_id(n),
            inventory: inventory.clone(),
            profile: profile.map(str::to_owned),
            order: None,
            attempts: None,
        };
        rig.post_as(&who, "/v1/runs", &request)
    };
    let name = |response| {
        let response: akene_protocol::api::RunResponse = ok(response);
        response.profile.open::<Bundle>(&key).unwrap().name
    };
    assert_eq!(name(ask(1, None, &small)), "small");
    assert_eq!(name(ask(2, None, &inventory(1))), "default");
    assert_eq!(name(ask(3, Some("kiosk"), &small)), "kiosk");
    refused(ask(4, Some("small"), &small), 400, "profile-not-requestable");
    refused(ask(5, Some("../secrets/site"), &small), 400, "profile-not-requestable");
    let shown = rig.machine(&who);
    assert!(shown["runs"][4]["why"].as_str().unwrap().contains("ram < 2 GiB"), "{shown}");
    // What was refused is shown to the administrator too.
    assert_eq!(shown["runs"][0]["refusal"]["code"], "profile-not-requestable");
    assert!(shown["words"].as_str().unwrap().starts_with("waits: this site does not let"), "{shown}");
}

#[test]
fn a_broken_profile_is_refused_by_file_and_line() {
    let rig = Rig::new();
    let machine = inventory(1);
    let who = rig.enrol(&machine).identity;
    let path = rig.site_dir().join("profiles/default.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    let ask = |n: u8| rig.post_as(&who, "/v1/runs", &request(run_id(n), &machine));

    std::fs::write(&path, format!("lokale = \"fr\"\n{good}")).unwrap();
    let issue = refused(ask(1), 400, "profile-unreadable");
    assert_eq!(issue.path, "profiles/default.toml:1:1");
    assert_eq!(issue.next, "did you mean `locale`?");
    assert_eq!(rig.machine(&who)["refusal"]["path"], "profiles/default.toml:1:1");

    std::fs::write(&path, good.replace("\"ssh\"]", "\"shh\"]")).unwrap();
    let issue = refused(ask(1), 400, "class-unknown");
    assert!(issue.path.starts_with("profiles/default.toml:"), "{issue}");
    assert_eq!(issue.next, "did you mean `ssh`?");

    std::fs::write(&path, format!("{good}\n[[files]]\npath = \"etc/motd\"\ncontent = \"x\"\n")).unwrap();
    let issue = refused(ask(1), 400, "file-path");
    let line = good.matches('\n').count() + 3;
    assert_eq!(issue.path, format!("profiles/default.toml:{line}: files.etc/motd"));

    // Mended, the same run goes on.
    std::fs::write(&path, good).unwrap();
    assert!(rig.run(&who, run_id(1), &machine).grant.is_some());
    assert_eq!(rig.machine(&who)["refusal"], serde_json::Value::Null);
}

#[test]
fn state_survives_a_restart() {
    let mut rig = Rig::new();
    let machine = inventory(1);
    let who = rig.enrol(&machine).identity;
    rig.run(&who, run_id(1), &machine);
    rig.events(&who, &good_run(run_id(1)));
    let text = rig.client.post(rig.url(&format!("/v1/logs/{}/install.log", run_id(1))));
    let answer = text.header("authorization", who.bearer().expose()).body("line\n").send().unwrap();
    assert_eq!(answer.status(), 204);
    let before = rig.machine(&who);
    rig.restart();
    let mut after = rig.machine(&who);
    after["seen"] = before["seen"].clone();
    assert_eq!(before, after);
    assert_eq!(after["runs"][0]["logs"], serde_json::json!([["install.log", 5]]));
    assert!(rig.run(&who, run_id(2), &machine).grant.is_none());
}

#[test]
fn a_broken_off_installation_may_go_on_with_its_disks_and_no_other() {
    let rig = Rig::new();
    let key = rig.server().site_key;
    let mut n = 0;
    // What the next run is granted, after one that broke off like this.
    let mut next = |before: &akene_protocol::inventory::Disk, reached: Phase, after: Vec<_>| {
        n += 2;
        let mut machine = inventory(n.into());
        machine.disks = vec![before.clone()];
        let who = rig.enrol(&machine).identity;
        assert!(rig.run(&who, run_id(n), &machine).grant.is_some());
        rig.events(&who, &[event(run_id(n), 1, EventKind::PhaseStarted { phase: reached })]);
        machine.disks = after;
        let grant = rig.run(&who, run_id(n + 1), &machine).grant.unwrap();
        grant.open::<Grant>(&key).unwrap().consent
    };
    let blank = disk(Some("WD-A"), None);
    let begun = || disk(Some("WD-A"), Some("AKENE_BOOT"));
    assert_eq!(next(&blank, Phase::Install, vec![begun()]), Consent::Wipe);
    assert_eq!(next(&blank, Phase::Stage, vec![begun()]), Consent::Blank, "nothing had been changed");
    assert_eq!(next(&blank, Phase::Install, vec![disk(Some("WD-B"), Some("Windows"))]), Consent::Blank);
    assert_eq!(next(&blank, Phase::Install, vec![begun(), disk(Some("WD-B"), None)]), Consent::Blank);
    assert_eq!(next(&disk(None, None), Phase::Install, vec![disk(None, Some("x"))]), Consent::Blank);
    assert_eq!(next(&begun(), Phase::Install, vec![begun()]), Consent::Blank, "it was not blank before");
    assert_eq!(next(&blank, Phase::Install, vec![]), Consent::Blank);
}

#[test]
fn a_reinstall_that_broke_off_goes_on_and_one_that_ended_does_not() {
    let rig = Rig::new();
    let key = rig.server().site_key;
    let mut machine = inventory(1);
    machine.disks = vec![disk(Some("WD-A"), None)];
    let who = rig.enrol(&machine).identity;
    rig.run(&who, run_id(1), &machine);
    rig.events(&who, &good_run(run_id(1)));
    machine.disks = vec![disk(Some("WD-A"), Some("AKENE_BOOT"))];
    rig.allow(&who, "wipe");
    assert!(rig.run(&who, run_id(2), &machine).grant.is_some());
    let failed = EventKind::Failed { phase: Phase::Install, issues: vec![], disks_changed: true };
    rig.events(&who, &[event(run_id(2), 1, failed)]);
    let grant = rig.run(&who, run_id(3), &machine).grant.unwrap().open::<Grant>(&key).unwrap();
    assert_eq!(grant.consent, Consent::Wipe);
    rig.events(&who, &good_run(run_id(3)));
    assert_eq!(rig.run(&who, run_id(4), &machine).refusal.unwrap().code, "already-installed");
}

#[test]
fn what_fails_over_and_over_waits_for_a_person() {
    let rig = Rig::new();
    let mut machine = inventory(1);
    machine.disks = vec![disk(Some("WD-A"), None)];
    let who = rig.enrol(&machine).identity;
    let fail = |n: u8, machine: &akene_protocol::Inventory| {
        assert!(rig.run(&who, run_id(n), machine).grant.is_some(), "try {n}");
        let failed = EventKind::Failed { phase: Phase::Install, issues: vec![], disks_changed: true };
        rig.events(&who, &[event(run_id(n), 1, failed)]);
    };
    fail(1, &machine);
    machine.disks = vec![disk(Some("WD-A"), Some("AKENE_BOOT"))];
    // A power cut in between does not count.
    assert!(rig.run(&who, run_id(2), &machine).grant.is_some());
    rig.events(&who, &[event(run_id(2), 1, EventKind::PhaseStarted { phase: Phase::Install })]);
    fail(3, &machine);
    fail(4, &machine);
    for n in 5..7 {
        let answer = rig.run(&who, run_id(n), &machine);
        assert!(answer.grant.is_none());
        assert_eq!(answer.refusal.unwrap().code, "failed-too-often");
    }
    rig.allow(&who, "wipe");
    assert!(rig.run(&who, run_id(7), &machine).grant.is_some(), "a person's word counts");
}

/// A machine that has given up trying by itself goes on only with a person's word, whatever counted before.
#[test]
fn after_many_attempts_only_a_person_counts() {
    let rig = Rig::new();
    let small = inventory(7);
    let who = rig.enrol(&small).identity;
    let ask = |n: u8, attempts: Option<u32>| -> akene_protocol::api::RunResponse {
        ok(rig.post_as(&who, "/v1/runs", &RunRequest { attempts, ..request(run_id(n), &small) }))
    };
    assert!(ask(1, None).grant.is_some(), "a new machine is installed unasked here");
    let refused = ask(2, Some(5));
    assert_eq!(refused.refusal.map(|issue| issue.code).as_deref(), Some("failed-too-often"));
    assert!(refused.grant.is_none() && ask(2, Some(5)).grant.is_none());
    rig.allow(&who, "wipe");
    assert!(ask(2, Some(5)).grant.is_some());
    // The installer then asks for what it does, with the same run.
    assert!(ask(2, None).grant.is_some());
    assert!(ask(3, Some(5)).grant.is_none(), "it was used up");
}

/// A machine that waits for a permission restarts over and over, for weeks: it is heard when the permission comes.
#[test]
fn a_machine_that_was_refused_for_weeks_is_still_heard() {
    let rig = Rig::new();
    let machine = inventory(7);
    let who = rig.enrol(&machine).identity;
    let run = |n: u64| RunId(n.to_be_bytes());
    assert!(rig.run(&who, run(1), &machine).grant.is_some());
    rig.events(&who, &good_run(run(1)));
    for n in 2..=260 {
        assert_eq!(rig.run(&who, run(n), &machine).refusal.unwrap().code, "already-installed");
    }
    let db = akene_server::db::Db::open(&rig.site_dir().join("state/akene.db")).unwrap();
    let known = |n: u64| -> i64 {
        let query = format!("SELECT count(*) FROM runs WHERE id = '{}'", run(n));
        db.run(|db| Ok(db.query_row(&query, [], |row| row.get(0))?)).unwrap()
    };
    // The installation is never forgotten; of the refusals, the old ones are.
    assert_eq!([1, 2, 50, 260].map(known), [1, 0, 0, 1]);
    rig.allow(&who, "wipe");
    assert!(rig.run(&who, run(261), &machine).grant.is_some());
}
