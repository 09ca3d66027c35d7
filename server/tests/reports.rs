//! Reports of machines that were installed with no network, over real TLS on a loopback port, with real seals and
//! signatures.
#![allow(missing_docs)]

mod common;

use std::io::Write as _;

use akene_protocol::api::{EnrolResponse, EventBatch, Identity, Recognised};
use akene_protocol::event::{EventKind, Phase};
use akene_protocol::report::{LARGEST, Letter, Report, ReportAccepted};
use akene_protocol::seal::SealSecret;
use akene_protocol::{Bytes, Envelope, Issue, Secret};
use akene_server::db::{Db, Trouble, events as event_store, strangers};
use akene_server::site::Site;
use akene_server::site::init::{Options, init};
use akene_server::site::media;
use akene_server::{report as server_report, view};
use common::*;
use proptest::prelude::*;
use reqwest::blocking::Response;

struct Home {
    rig: Rig,
    site: Site,
}

impl Home {
    fn new() -> Home {
        let rig = Rig::new();
        let site = Site::open(&rig.site_dir()).unwrap();
        Home { rig, site }
    }

    fn stick(&self, n: u8) -> Stick {
        Stick::of(&self.site, n, 100)
    }

    fn post(&self, sealed: Vec<u8>) -> Response {
        self.rig.client.post(self.rig.url("/v1/reports")).body(sealed).send().unwrap()
    }

    fn bring(&self, stick: &Stick, report: &Report) -> ReportAccepted {
        ok(self.post(stick.sealed(report)))
    }

    fn fleet(&self) -> serde_json::Value {
        self.rig.admin("/v1/admin/machines")
    }

    fn members(&self) -> usize {
        self.fleet()["machines"].as_array().unwrap().len()
    }

    fn waiting(&self) -> Vec<serde_json::Value> {
        self.fleet()["waiting"].as_array().unwrap().clone()
    }

    /// Whether the server listens to what the machine says by itself.
    fn listens_to(&self, who: &Identity) -> bool {
        self.rig.post_as(who, "/v1/events", &EventBatch { events: vec![] }).status() == 200
    }

    fn db<T>(&self, work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, Trouble>) -> Result<T, Issue> {
        Db::open(&self.site.database()).unwrap().run(work).map_err(|trouble| match trouble {
            Trouble::Refused(issue) => issue,
            Trouble::Broken(error) => panic!("{error:#}"),
        })
    }

    fn admit(&self, name: &str) -> Result<Option<ReportAccepted>, Issue> {
        self.db(|db| Ok(server_report::admit(db, &self.site, name, Bytes::mib(64))?.1))
    }

    fn notes(&self, who: &Identity) -> String {
        self.rig.machine(who)["notes"].to_string()
    }
}

#[test]
fn a_machine_joins_with_its_own_identity_and_is_a_full_member() {
    let home = Home::new();
    let stick = home.stick(1);
    let (who, machine) = (minted(7, 123_456), inventory(1));
    let told = report(&who, run_id(1), &machine, 5);
    assert!(!home.listens_to(&who));
    let accepted = home.bring(&stick, &told);
    let expected = ReportAccepted {
        machine: who.machine,
        asset: who.asset,
        instead_of: None,
        labelled: false,
        association: Some("Foyer <de> Lannion".into()),
        recognised: Recognised::New,
        admitted: true,
        new: told.events.len(),
    };
    assert_eq!(accepted, expected);
    let shown = home.rig.machine(&who);
    assert_eq!((shown["state"].as_str(), shown["asset"].as_str()), (Some("installed"), Some("123456-5")));
    assert_eq!((shown["profile"].as_str(), shown["revision"].as_str()), (Some("default"), Some("r1")));
    assert_eq!(
        (&shown["association"], &shown["medium"]),
        (&"Foyer <de> Lannion".into(), &stick.id.to_string().into())
    );
    assert_eq!(shown["plan"]["disks"][0], "sda");
    assert_eq!(shown["runs"][0]["logs"][0][0], "install.log");
    assert!(shown["runs"][0]["why"].as_str().unwrap().contains(&stick.id.to_string()));
    assert_eq!(shown["inventory"]["dmi"]["product-serial"], "5XK0001J");
    for path in ["/", "/machines/123456-5"] {
        let page =
            home.rig.client.get(home.rig.url(path)).bearer_auth(home.rig.server().admin_token.expose());
        let page = page.send().unwrap().text().unwrap();
        assert!(page.contains("Foyer &lt;de&gt; Lannion") && !page.contains("<de>"), "{page}");
    }

    // Whoever brings it again, or an earlier one, changes nothing.
    for again in [told.clone(), shorter(&told, 3), told.clone()] {
        let accepted = home.bring(&stick, &again);
        assert_eq!((accepted.recognised, accepted.new, accepted.admitted), (Recognised::Same, 0, true));
    }
    assert_eq!(home.rig.machine(&who), shown);

    // It speaks for itself: it confirms, and an order reaches it.
    home.rig.events(&who, &good_run(run_id(1))[told.events.len()..]);
    assert_eq!(home.rig.machine(&who)["state"], "confirmed");
    let order = home.rig.client.post(home.rig.url("/v1/admin/machines/123456-5/orders"));
    let order = order.bearer_auth(home.rig.server().admin_token.expose());
    let order: serde_json::Value = ok(order.json(&serde_json::json!({ "task": "logs" })).send().unwrap());
    let asked =
        home.rig.client.get(home.rig.url("/v1/orders")).header("authorization", who.bearer().expose());
    let open: akene_protocol::api::OpenOrders = ok(asked.send().unwrap());
    let heard: akene_protocol::Order = open.orders[0].open(&home.rig.server().site_key).unwrap();
    assert_eq!((heard.machine, heard.id.to_string().into()), (who.machine, order["order"].clone()));
    // And its enrolment later is that of a machine that is known.
    let enrolled: EnrolResponse = home.rig.enrol_known(&machine, Some(who.clone()));
    assert_eq!((enrolled.recognised, enrolled.identity), (Recognised::Same, who));
    // One that enrols at the server gets the first number of its own range.
    assert_eq!(home.rig.enrol(&inventory(9)).identity.asset.to_string(), "1001-6");
}

#[test]
fn what_no_medium_of_the_site_wrote_is_refused_by_name_and_leaves_nothing() {
    let home = Home::new();
    let stick = home.stick(1);
    let told = report(&minted(7, 123_456), run_id(1), &inventory(1), 5);
    let good = stick.sealed(&told);
    let letter = |medium: &Stick, report: Envelope| {
        stick.seal(&serde_json::to_vec(&Letter { medium: medium.id, report }).unwrap())
    };
    let other = Stick {
        id: akene_protocol::medium::MediumId([9; 8]),
        key: home.stick(2).key,
        seal: stick.seal.clone(),
    };
    let elsewhere = Stick { seal: SealSecret::from_bytes([3; 32]).public(), ..home.stick(1) };
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let mut changed = stick.letter(&told);
    changed.report.payload = stick.letter(&shorter(&told, 3)).report.payload;
    let mut of_another_kind = stick.letter(&told).report;
    of_another_kind.payload_type = "application/vnd.akene.report+json; version=2".into();
    let newer = serde_json::from_value::<Report>({
        let mut text = serde_json::to_value(&told).unwrap();
        text["version"] = 2.into();
        text
    })
    .unwrap();
    let mut foreign = told.clone();
    foreign.events[2].run = run_id(9);
    for (what, body, code) in [
        ("nothing", vec![], "report-unreadable"),
        ("garbage", vec![b'x'; 1000], "report-seal"),
        ("a report that was changed on its way", flipped, "report-seal"),
        ("one that broke off", good[..good.len() - 7].to_vec(), "report-seal"),
        ("one sealed for another site", elsewhere.sealed(&told), "report-seal"),
        ("something else, sealed", stick.seal(b"{\"medium\": 7}"), "report-unreadable"),
        ("a report that is not signed", stick.seal(&serde_json::to_vec(&told).unwrap()), "report-unreadable"),
        ("a medium nobody made", other.sealed(&told), "medium-unknown"),
        ("another medium's signature", letter(&stick, Envelope::sign(&told, &other.key)), "report-signature"),
        (
            "a signature of something else",
            stick.seal(&serde_json::to_vec(&changed).unwrap()),
            "report-signature",
        ),
        ("another type", letter(&stick, of_another_kind), "report-signature"),
        ("another version", stick.sealed(&newer), "report-version"),
        ("another run's events", stick.sealed(&foreign), "report-odd"),
    ] {
        let answer = home.post(body);
        let status = answer.status();
        let issue: Issue = serde_json::from_str(&answer.text().unwrap()).unwrap();
        assert_eq!((status.as_u16(), issue.code.as_str()), (401, code), "{what}");
        assert!(!issue.next.is_empty(), "{what}");
        assert!(!format!("{issue}").contains(told.identity.credential.expose()), "{what}");
    }
    assert_eq!((home.members(), home.waiting().len()), (0, 0));
    // Something that is signed right and of another type: another document of this medium.
    let medium = letter(&stick, Envelope::sign(&grant(), &stick.key));
    refused(home.post(medium), 401, "report-version");
    // Who goes on is told to wait; what is right is let in as before.
    let mut last = 0;
    for _ in 0..12 {
        last = home.post(vec![b'x'; 100]).status().as_u16();
    }
    assert_eq!(last, 429);
    assert!(home.bring(&stick, &told).admitted);
    assert_eq!(home.members(), 1);
}

fn grant() -> akene_protocol::api::Grant {
    akene_protocol::api::Grant {
        machine: akene_protocol::MachineId([1; 16]),
        run: run_id(1),
        consent: akene_protocol::api::Consent::None,
        expires: jiff::Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn a_report_may_be_large_and_not_larger() {
    let home = Home::new();
    let stick = home.stick(1);
    let mut told = report(&minted(7, 123_456), run_id(1), &inventory(1), 5);
    told.log = Some("é".repeat(3 << 20));
    let sealed = stick.sealed(&told);
    assert!(sealed.len() > 8 << 20 && sealed.len() < LARGEST, "{}", sealed.len());
    assert!(ok::<ReportAccepted>(home.post(sealed)).admitted);
    match home.rig.client.post(home.rig.url("/v1/reports")).body(vec![0; LARGEST + 1]).send() {
        Ok(answer) => drop(refused(answer, 413, "body-too-large")),
        // The connection may be cut while we are still sending.
        Err(error) => assert!(error.is_request() || error.is_body(), "{error:?}"),
    }
    // Of a log that is too large for the server the end is kept, and the report counts.
    let file = home.rig.site_dir().join("site.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[limits]\nlog-bytes-per-machine = \"1 MiB\"\n")).unwrap();
    let mut other = report(&minted(8, 123_457), run_id(2), &inventory(2), 5);
    other.log = Some(format!("{}the end", "é".repeat(1 << 20)));
    assert!(home.bring(&stick, &other).admitted);
    let url = home.rig.url(&format!(
        "/v1/admin/machines/{}/logs/{}/install.log",
        other.identity.machine,
        run_id(2)
    ));
    let log = home.rig.client.get(url).bearer_auth(home.rig.server().admin_token.expose()).send().unwrap();
    let log = log.text().unwrap();
    assert!(log.len() <= 1 << 20 && log.len() > (1 << 20) - 4 && log.ends_with("éthe end"), "{}", log.len());
}

#[test]
fn nobody_takes_over_a_machine_by_a_report() {
    let home = Home::new();
    let stick = home.stick(1);
    let who = home.rig.enrol(&inventory(1)).identity;
    // Its own credential: the same machine, installed again, whatever became of the medium.
    let told = report(&who, run_id(1), &inventory(1), 5);
    assert_eq!(home.bring(&stick, &told).recognised, Recognised::Same);
    media::set_lost(&home.site, stick.id, true).unwrap();
    assert!(home.bring(&stick, &told).admitted);
    media::set_lost(&home.site, stick.id, false).unwrap();

    let forged = Identity { credential: Secret::new("f".repeat(64)), ..who.clone() };
    let issue = refused(
        home.post(stick.sealed(&report(&forged, run_id(2), &inventory(1), 4))),
        403,
        "report-other-credential",
    );
    assert!(!issue.next.is_empty());
    // Another id with this machine's credential.
    let stolen = Identity { credential: who.credential.clone(), ..minted(8, 123_456) };
    refused(
        home.post(stick.sealed(&report(&stolen, run_id(3), &inventory(2), 4))),
        403,
        "report-other-credential",
    );
    // Another machine's run.
    let other = report(&minted(9, 123_457), run_id(1), &inventory(3), 4);
    refused(home.post(stick.sealed(&other)), 403, "run-of-another");
    assert_eq!(home.members(), 1, "nothing is kept of what is refused");
    assert!(!home.listens_to(&forged) && home.listens_to(&who));
    assert_eq!(home.rig.machine(&who)["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn the_table_of_conflicts() {
    let home = Home::new();
    let stick = home.stick(1);
    let known = home.rig.enrol(&inventory(1)).identity;
    let mut card_of_known = inventory(7);
    card_of_known.nics = inventory(1).nics;
    for (n, what, serial, labelled, machine, recognised, moved) in [
        (1, "a machine like no other", 123_456, true, inventory(2), Recognised::New, false),
        (2, "all parts are another's", 123_457, true, inventory(1), Recognised::Ask, false),
        (3, "its card is another's", 123_458, false, card_of_known, Recognised::Ask, false),
        (4, "its number is another's", known.asset.serial(), false, inventory(3), Recognised::Ask, true),
        (5, "and stands on it", known.asset.serial(), true, inventory(4), Recognised::Ask, true),
        (6, "number and parts", known.asset.serial(), false, inventory(1), Recognised::Ask, true),
    ] {
        let who = minted(n, serial);
        let mut told = report(&who, run_id(n), &machine, 5);
        told.labelled = labelled;
        let accepted = home.bring(&stick, &told);
        assert_eq!((accepted.recognised, accepted.admitted), (recognised, true), "{what}");
        assert_eq!(accepted.instead_of, moved.then_some(who.asset), "{what}");
        assert!(home.listens_to(&who), "{what}");
        let shown = home.rig.machine(&who);
        let (notes, theirs) = (home.notes(&who), home.notes(&known));
        assert_eq!(shown["asset"], accepted.asset.to_string(), "{what}");
        let asked = recognised == Recognised::Ask;
        assert_eq!(shown["recognised"], if asked { "ask" } else { "new" }, "{what}");
        // Both are named to the administrator.
        assert_eq!(shown["maybe"] == known.machine.to_string(), asked, "{what}: {shown}");
        assert_eq!(
            theirs.contains(&format!("{} may be this one", accepted.asset)),
            asked,
            "{what}: {theirs}"
        );
        let said = notes.contains(&format!("which another machine has ({})", known.machine));
        assert_eq!(said, moved, "{what}: {notes}");
        assert_eq!(notes.contains("must be changed"), moved && labelled, "{what}: {notes}");
        // Told again it is the same, and still asked about.
        let again = home.bring(&stick, &told);
        let same = if asked { Recognised::Ask } else { Recognised::Same };
        assert_eq!((again.recognised, again.new, again.asset), (same, 0, accepted.asset), "{what}");
    }
    let mut numbers: Vec<String> =
        home.fleet()["machines"].as_array().unwrap().iter().map(|m| m["asset"].to_string()).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 7);
    // None of them was taken for the one that was there.
    let machine = home.rig.machine(&known);
    assert_eq!(machine["runs"].as_array().unwrap().len(), 0);
    assert_eq!(machine["state"], "enrolled");
}

#[test]
fn what_comes_from_a_lost_medium_waits_for_a_person() {
    let home = Home::new();
    let stick = home.stick(1);
    let before = minted(1, 111_111);
    home.bring(&stick, &report(&before, run_id(1), &inventory(1), 9));
    media::set_lost(&home.site, stick.id, true).unwrap();

    let who = minted(2, 222_222);
    let told = report(&who, run_id(2), &inventory(2), 5);
    for (report, kept) in
        [(shorter(&told, 4), 4), (told.clone(), told.events.len()), (shorter(&told, 2), told.events.len())]
    {
        let accepted = home.bring(&stick, &report);
        assert_eq!((accepted.admitted, accepted.recognised, accepted.new), (false, Recognised::Ask, 0));
        let sealed = home.db(|db| Ok(strangers::letters(db, who.machine)?)).unwrap().pop().unwrap();
        let opened = server_report::open(&home.site, &sealed).unwrap();
        assert_eq!(opened.report.events.len(), kept, "the longest stays");
    }
    // A second run, a failed one before; and a third machine that calls itself the same.
    home.bring(&stick, &shorter(&report(&who, run_id(3), &inventory(2), 7), 3));
    let twin = minted(3, 222_222);
    home.bring(&stick, &report(&twin, run_id(4), &inventory(3), 5));
    assert!(!home.listens_to(&who) && home.listens_to(&before));
    assert_eq!((home.members(), home.waiting().len()), (1, 2));
    let shown = home.waiting();
    assert!(shown.iter().all(|w| w["words"].as_str().unwrap().contains("declared lost")), "{shown:?}");
    assert_eq!(shown[0]["association"], "Foyer <de> Lannion");
    let page = home.rig.client.get(home.rig.url("/")).bearer_auth(home.rig.server().admin_token.expose());
    let page = page.send().unwrap().text().unwrap();
    assert!(page.contains("Waiting") && page.contains(&who.machine.to_string()), "{page}");
    // Nobody else speaks for it.
    let forged = Identity { credential: Secret::new("f".repeat(64)), ..who.clone() };
    refused(
        home.post(stick.sealed(&report(&forged, run_id(5), &inventory(2), 4))),
        403,
        "report-other-credential",
    );

    assert_eq!(home.admit("222222-4").unwrap_err().code, "machine-unknown");
    assert_eq!(home.admit(&who.asset.to_string()).unwrap_err().code, "machine-ambiguous");
    let accepted = home.admit(&who.machine.to_string()).unwrap().unwrap();
    assert_eq!((accepted.admitted, accepted.new), (true, told.events.len() + 3));
    assert!(home.listens_to(&who) && !home.listens_to(&twin));
    let member = home.rig.machine(&who);
    assert_eq!((member["state"].as_str(), member["runs"].as_array().unwrap().len()), (Some("installed"), 2));
    assert_eq!(member["runs"][1]["run"], run_id(3).to_string(), "ordered by when they began");
    // The machine itself hears that it is one, by the report it still has.
    let accepted = home.bring(&stick, &told);
    assert_eq!((accepted.admitted, accepted.recognised, accepted.new), (true, Recognised::Same, 0));

    // The other is not wanted; that can be changed.
    home.db(|db| server_report::drop_it(db, &twin.asset.to_string())).unwrap();
    let again = stick.sealed(&report(&twin, run_id(4), &inventory(3), 5));
    refused(home.post(again.clone()), 403, "machine-dropped");
    assert!(home.waiting()[0]["words"].as_str().unwrap().starts_with("dropped"));
    assert_eq!(home.admit(&twin.machine.to_string()).unwrap(), None);
    let accepted: ReportAccepted = ok(home.post(again));
    assert_eq!((accepted.admitted, accepted.instead_of), (true, Some(twin.asset)));
    assert!(home.waiting().is_empty() && home.listens_to(&twin));
}

#[test]
fn a_medium_counts_for_its_days_and_its_machines() {
    let home = Home::new();
    let stick = Stick::of(&home.site, 1, 2);
    let told = |n: u8| report(&minted(n, 100_000 + u32::from(n)), run_id(n), &inventory(n.into()), 5);
    assert!(home.bring(&stick, &told(1)).admitted && home.bring(&stick, &told(2)).admitted);
    assert!(!home.bring(&stick, &told(3)).admitted);
    assert!(home.waiting()[0]["words"].as_str().unwrap().contains("2 computers have joined"));
    // Those that are members go on being heard.
    assert!(home.bring(&stick, &report(&minted(1, 100_001), run_id(9), &inventory(1), 1)).admitted);
    // With room for more, the one that waits joins when it is heard of again, with everything it said.
    let mut medium = media::find(&home.site, stick.id).unwrap().unwrap();
    medium.machines = 3;
    media::register(&home.site, &medium).unwrap();
    let second = report(&minted(3, 100_003), run_id(4), &inventory(3), 2);
    let accepted = home.bring(&stick, &second);
    assert_eq!((accepted.admitted, accepted.new), (true, told(3).events.len() + second.events.len()));
    assert!(home.waiting().is_empty());

    medium.machines = 100;
    medium.expires = jiff::Timestamp::now();
    media::register(&home.site, &medium).unwrap();
    assert!(!home.bring(&stick, &told(5)).admitted);
    assert!(home.waiting()[0]["words"].as_str().unwrap().contains("counted until"));
}

/// What an installer reports that was refused or declined before it changed anything.
fn came_to_nothing(n: u8) -> Report {
    let mut told =
        shorter(&report(&minted(n, 100_000 + u32::from(n)), run_id(n), &inventory(n.into()), 5), 3);
    let why = Issue::new("disk-too-small", "", "no disk\u{1b}[2J has 10 GB", "");
    told.events.last_mut().unwrap().kind =
        EventKind::Failed { phase: Phase::Plan, issues: vec![why], disks_changed: false };
    told
}

#[test]
fn what_trickles_from_one_address_keeps_no_other_waiting() {
    let home = Home::new();
    let sealed = home.stick(1).sealed(&report(&minted(7, 123_456), run_id(1), &inventory(1), 5));
    let url = home.rig.url("/v1/reports");
    let bring = || {
        let answer = home.post(sealed.clone());
        (answer.status().as_u16(), answer.text().unwrap())
    };
    let trickling = [(); 2].map(|()| {
        let mut stream = home.rig.wire();
        let head = "POST /v1/reports HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\nx";
        stream.write_all(head.as_bytes()).unwrap();
        stream.flush().unwrap();
        stream
    });
    let refused = soon(|| Some(bring()).filter(|(status, _)| *status != 200));
    let (status, said) = refused.expect("both are being read, and a third is");
    assert_eq!(status, 503, "{said}");
    assert!(said.contains("too-many-reports"), "{said}");
    let elsewhere = std::net::IpAddr::from([127, 0, 0, 2]);
    let other = client_at(home.rig.server().ca.as_deref().unwrap(), Some(elsewhere));
    assert!(ok::<ReportAccepted>(other.post(&url).body(sealed.clone()).send().unwrap()).admitted);
    drop(trickling);
    let free = soon(|| Some(bring()).filter(|(status, _)| *status == 200));
    assert!(free.is_some(), "who has gone keeps his place");
}

#[test]
fn a_report_that_has_become_unreadable_keeps_nobody_out() {
    let home = Home::new();
    let stick = Stick::of(&home.site, 1, 0);
    let (who, other) = (minted(1, 111_111), minted(2, 222_222));
    let told = report(&who, run_id(1), &inventory(1), 5);
    home.bring(&stick, &told);
    home.bring(&stick, &shorter(&report(&who, run_id(2), &inventory(1), 6), 2));
    home.bring(&stick, &report(&other, run_id(3), &inventory(2), 5));
    let spoil = |run: u8| {
        let sql = "UPDATE letters SET sealed = x'00' WHERE run = ?1";
        home.db(|db| Ok(db.execute(sql, [run_id(run).to_string()])?)).unwrap()
    };
    // Its longest, by which it would have been admitted.
    assert_eq!((spoil(1), spoil(3)), (1, 1));
    let accepted = home.admit("111111-8").unwrap().unwrap();
    assert_eq!((accepted.admitted, accepted.new), (true, 2));
    assert!(home.notes(&who).contains("a report that waited is lost: [report-unreadable]"));
    // Where none can be read nobody knows who it is: it goes on waiting.
    assert_eq!(home.admit("222222-6").unwrap_err().code, "report-unreadable");
    assert_eq!((home.members(), home.waiting().len()), (1, 1));
}

#[test]
fn a_medium_brings_only_so_many_computers_in_an_hour() {
    let home = Home::new();
    let file = home.rig.site_dir().join("site.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[limits]\nnew-machines-per-hour = 2\n")).unwrap();
    let (stick, other) = (home.stick(1), home.stick(2));
    let told = |n: u8| report(&minted(n, 100_000 + u32::from(n)), run_id(n), &inventory(n.into()), 5);
    assert!(home.bring(&stick, &told(1)).admitted && home.bring(&stick, &told(2)).admitted);
    let waits = home.bring(&stick, &told(3));
    assert_eq!((waits.admitted, waits.recognised), (false, Recognised::Ask));
    let words = home.waiting()[0]["words"].to_string();
    assert!(words.contains("within an hour") && words.contains("limits.new-machines-per-hour"), "{words}");
    // Another medium has its own hour, members are heard, and an hour later the one that waits joins.
    assert!(home.bring(&other, &told(4)).admitted && home.bring(&stick, &told(1)).admitted);
    let an_hour_ago = (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(61)).to_string();
    home.db(|db| Ok(db.execute("UPDATE machines SET created = ?1", [an_hour_ago])?)).unwrap();
    assert!(home.bring(&stick, &told(3)).admitted && home.waiting().is_empty());
}

#[test]
fn a_computer_on_which_nothing_was_installed_is_noted_and_uses_up_nothing() {
    let home = Home::new();
    let stick = Stick::of(&home.site, 1, 1);
    for n in 1..=30 {
        let accepted = home.bring(&stick, &came_to_nothing(n));
        assert_eq!((accepted.admitted, accepted.recognised), (false, Recognised::New));
    }
    assert_eq!(home.members(), 0);
    let shown = home.waiting();
    assert_eq!(shown.len(), 20, "the oldest have made way");
    assert_eq!(shown[0]["machine"], minted(30, 0).machine.to_string());
    assert_eq!(shown[0]["words"], "nothing was installed: [disk-too-small] no disk[2J has 10 GB");
    assert_eq!(shown[0]["undecided"], false);
    // One that was changed may hold a half-made system: that is a member.
    let mut changed = came_to_nothing(40);
    let kind = &mut changed.events.last_mut().unwrap().kind;
    let EventKind::Failed { disks_changed, .. } = kind else { unreachable!() };
    *disks_changed = true;
    assert!(home.bring(&stick, &changed).admitted, "the medium has not been used up");
    // The same computer tried again, with a medium that has room: what it said before counts, too.
    let other = Stick::of(&home.site, 2, 1);
    let good = report(&came_to_nothing(30).identity, run_id(41), &inventory(30), 4);
    let accepted = home.bring(&other, &good);
    assert_eq!((accepted.admitted, accepted.new), (true, good.events.len() + 3));
    assert_eq!(home.rig.machine(&good.identity)["runs"].as_array().unwrap().len(), 2);
    // Without room it waits, and then it goes on waiting, whatever it says.
    let waits = report(&came_to_nothing(29).identity, run_id(42), &inventory(29), 4);
    assert_eq!(home.bring(&other, &waits).recognised, Recognised::Ask);
    assert_eq!(home.bring(&other, &came_to_nothing(29)).recognised, Recognised::Ask);
    assert_eq!(home.waiting()[0]["undecided"], true);
    // Nobody else speaks for it, and a person may let it in.
    let forged = Report {
        identity: Identity { credential: Secret::new("f".repeat(64)), ..came_to_nothing(28).identity },
        ..came_to_nothing(28)
    };
    refused(home.post(stick.sealed(&forged)), 403, "report-other-credential");
    let accepted = home.admit(&came_to_nothing(28).identity.machine.to_string()).unwrap().unwrap();
    assert_eq!((accepted.admitted, accepted.new), (true, 3));
}

#[test]
fn only_so_many_reports_of_one_medium_wait_and_another_has_its_own_room() {
    let home = Home::new();
    let (stick, other) = (Stick::of(&home.site, 1, 0), Stick::of(&home.site, 2, 0));
    let told = |n: u8| {
        let mut report = shorter(&report(&minted(n, 1), run_id(n), &inventory(n.into()), 5), 1);
        report.inventory = inventory(n.into());
        report
    };
    for n in 0..100 {
        assert!(!home.bring(&stick, &told(n)).admitted);
    }
    let issue = refused(home.post(stick.sealed(&told(100))), 429, "too-many-waiting");
    assert!(issue.next.contains("machine waiting"), "{issue}");
    assert!(!home.bring(&other, &told(101)).admitted);
    assert_eq!(home.waiting().len(), 101);
    // What waits already may grow.
    assert!(!home.bring(&stick, &report(&minted(5, 1), run_id(5), &inventory(5), 5)).admitted);
}

#[test]
fn a_clock_that_cannot_be_right_puts_no_run_before_or_after_all_others() {
    let home = Home::new();
    let stick = home.stick(1);
    let who = minted(1, 111_111);
    home.bring(&stick, &report(&who, run_id(1), &inventory(1), 5));
    for (n, hours) in [(2, 24 * 365), (3, -24 * 365)] {
        home.bring(&stick, &report(&who, run_id(n), &inventory(1), hours));
        let shown = home.rig.machine(&who);
        assert_eq!(shown["run"], run_id(n).to_string(), "the newest is the one that came last");
        let created: jiff::Timestamp = shown["runs"][0]["created"].as_str().unwrap().parse().unwrap();
        let age = jiff::Timestamp::now().duration_since(created);
        assert!(age.as_secs().abs() < 3600, "{age}");
    }
}

/// What is known of all machines, without when that was heard.
fn state(db: &Db) -> serde_json::Value {
    let read = |db: &rusqlite::Transaction<'_>| {
        let mut all = Vec::new();
        for machine in akene_server::db::machines::all(db)? {
            let mut detail = serde_json::to_value(view::detail(db, &machine)?)?;
            for time in ["created", "seen"] {
                detail.as_object_mut().unwrap().remove(time);
            }
            let mut notes: Vec<String> =
                detail["notes"].as_array().unwrap().iter().map(|n| n["text"].to_string()).collect();
            notes.sort();
            detail["notes"] = notes.into();
            let runs: Vec<String> = detail["runs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r["run"].as_str().unwrap().into())
                .collect();
            let mut told = Vec::new();
            for run in runs {
                let run = run.parse().unwrap();
                let events = event_store::of_run(db, run)?;
                told.push(serde_json::to_value((run, events, event_store::log(db, run, "install.log")?))?);
            }
            detail["told"] = told.into();
            all.push((machine.id, detail));
        }
        all.sort_by_key(|(id, _)| *id);
        Ok(all.into_iter().map(|(_, detail)| detail).collect::<Vec<_>>())
    };
    db.run(read).map_err(Trouble::into_error).unwrap().into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two machines with two runs each, told at several lengths, and what each says by itself once it is heard: in whatever
    /// order and however often it comes, the outcome is that of each once.
    #[test]
    fn every_order_and_every_repetition_comes_to_the_same(
        order in prop::collection::vec(0..14_usize, 0..20),
        rest in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let site = init(&dir.path().join("site"), &Options::new("https://127.0.0.1:8443")).unwrap();
        let stick = Stick::of(&site, 1, 100);
        let (mut letters, mut live) = (Vec::new(), Vec::new());
        for n in 1..=2 {
            let who = minted(n, 100_000 + u32::from(n));
            for run in 1..=2_u8 {
                let mut machine = inventory(n.into());
                // More memory in the second run.
                machine.memory.total = Bytes::gib(run.into());
                let mut whole = report(&who, run_id(n * 16 + run), &machine, 10 - i64::from(run));
                if run == 1 {
                    let failed = EventKind::Failed { phase: Phase::Stage, issues: vec![], disks_changed: false };
                    whole.events.last_mut().unwrap().kind = failed;
                    whole.association = None;
                }
                letters.extend([shorter(&whole, 2), shorter(&whole, 7), whole].map(|r| stick.sealed(&r)));
            }
            live.push((who.machine, good_run(run_id(n * 16 + 2))));
        }
        let outcome = |name: &str, order: &[usize]| {
            let db = Db::open(&dir.path().join(name)).unwrap();
            for at in order {
                if let Some((machine, events)) = at.checked_sub(letters.len()).map(|n| &live[n]) {
                    // The spool of the machine, from the end of what its installer has reported.
                    let said = db.run(|db| match akene_server::db::machines::with_id(db, *machine)? {
                        Some(_) => event_store::keep(db, *machine, &events[events.len() - 1..]),
                        None => Ok(0),
                    });
                    said.map_err(Trouble::into_error).unwrap();
                    continue;
                }
                let opened = server_report::open(&site, &letters[*at]).map_err(Trouble::into_error).unwrap();
                let taken = db.run(|db| server_report::take(db, &site, &opened, "peer", Bytes::mib(1)));
                let failed = opened.report.events.last().is_some_and(|e| matches!(e.kind, EventKind::Failed { .. }));
                prop_assert!(taken.map_err(Trouble::into_error).unwrap().admitted || failed);
            }
            Ok(state(&db))
        };
        let once: Vec<usize> = (0..letters.len() + live.len()).collect();
        let any: Vec<usize> = order.into_iter().chain(rest).chain([12, 13]).collect();
        let (expected, found) = (outcome("once.db", &once)?, outcome("any.db", &any)?);
        prop_assert_eq!(&expected, &found);
        prop_assert_eq!(expected[1]["inventory"]["memory"]["total"].as_u64(), Some(2 << 30));
        prop_assert_eq!(expected[1]["state"].as_str(), Some("confirmed"));
        prop_assert_eq!(expected[1]["association"].as_str(), Some("Foyer <de> Lannion"));
        prop_assert_eq!(expected[1]["runs"].as_array().unwrap().len(), 2);
    }
}
