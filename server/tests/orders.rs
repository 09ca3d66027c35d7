//! Orders: given, asked for by ten thousand machines, used once.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner as _, SystemRunner};
use akene_protocol::api::{Consent, Grant, Identity, OpenOrders, RunRequest, RunResponse};
use akene_protocol::event::{EventKind, Phase};
use akene_protocol::order::{Order, OrderId, Progress, Task};
use akene_protocol::{Bundle, Issue, RunId, Sha256};
use akene_server::site::Site;
use common::*;
use reqwest::blocking::Response;
use serde_json::{Value, json};

fn installed(rig: &Rig, n: u32) -> Identity {
    let who = rig.enrol(&inventory(n)).identity;
    let run = RunId(u64::from(n + 1000).to_be_bytes());
    rig.run(&who, run, &inventory(n));
    rig.events(&who, &good_run(run));
    who
}

fn give(rig: &Rig, who: &Identity, wish: Value) -> Response {
    let url = rig.url(&format!("/v1/admin/machines/{}/orders", who.asset));
    rig.client.post(url).bearer_auth(rig.server().admin_token.expose()).json(&wish).send().unwrap()
}

fn given(rig: &Rig, who: &Identity, wish: Value) -> OrderId {
    let view: Value = ok(give(rig, who, wish));
    view["order"].as_str().unwrap().parse().unwrap()
}

fn ask(rig: &Rig, who: &Identity, known: Option<&str>, wait: u32) -> Response {
    let mut request = rig.client.get(rig.url(&format!("/v1/orders?wait={wait}")));
    request = request.header("authorization", who.bearer().expose());
    if let Some(known) = known {
        request = request.header("if-none-match", known);
    }
    request.send().unwrap()
}

fn tag(response: &Response) -> String {
    response.headers()["etag"].to_str().unwrap().to_owned()
}

fn open_orders(rig: &Rig, who: &Identity) -> Vec<Order> {
    let open: OpenOrders = ok(ask(rig, who, None, 0));
    open.orders.iter().map(|envelope| envelope.open(&rig.server().site_key).unwrap()).collect()
}

fn say(rig: &Rig, who: &Identity, order: OrderId, word: &Progress) -> Response {
    rig.post_as(who, &format!("/v1/orders/{order}"), word)
}

fn install(rig: &Rig, who: &Identity, run: RunId, n: u32, order: OrderId) -> RunResponse {
    let request =
        RunRequest { run, inventory: inventory(n), profile: None, order: Some(order), attempts: None };
    ok(rig.post_as(who, "/v1/runs", &request))
}

fn granted(rig: &Rig, answer: &RunResponse) -> Consent {
    let grant = answer.grant.as_ref().unwrap_or_else(|| panic!("{:?}", answer.refusal));
    grant.open::<Grant>(&rig.server().site_key).unwrap().consent
}

fn code(answer: &RunResponse) -> &str {
    assert!(answer.grant.is_none());
    &answer.refusal.as_ref().unwrap().code
}

fn state(rig: &Rig, who: &Identity) -> String {
    rig.machine(who)["orders"][0]["state"].as_str().unwrap().to_owned()
}

/// As the administrator's commands do it: on the database, beside the running server.
fn beside<T: rusqlite::types::FromSql>(rig: &Rig, query: &str) -> T {
    let db = akene_server::db::Db::open(&rig.site_dir().join("state/akene.db")).unwrap();
    db.run(|db| Ok(db.query_row(query, [], |row| row.get(0))?)).unwrap()
}

fn ago(hours: i64) -> jiff::Timestamp {
    jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours)
}

/// What was given now counts as given and begun back then.
fn backdate(rig: &Rig, id: OrderId, issued: jiff::Timestamp, expires: jiff::Timestamp) {
    let of: String = beside(rig, &format!("SELECT document FROM orders WHERE id = '{id}'"));
    let order = Order { issued, expires, ..serde_json::from_str(&of).unwrap() };
    let (document, expires) = (serde_json::to_string(&order).unwrap(), expires.as_second());
    let _: i64 = beside(
        rig,
        &format!(
            "UPDATE orders SET document = '{document}', expires = {expires}, changed = '{issued}'
             WHERE id = '{id}' RETURNING n"
        ),
    );
}

#[test]
fn a_reinstallation_from_order_to_confirmation() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    // Without an order it may not install again.
    let refused_run = rig.run(&who, run_id(2), &inventory(1));
    assert_eq!(code(&refused_run), "already-installed");

    let first = ask(&rig, &who, None, 0);
    let nothing = tag(&first);
    assert_eq!(first.headers()["akene-poll"], "300");
    assert_eq!(ask(&rig, &who, Some(&nothing), 0).status(), 304);

    let id = given(&rig, &who, json!({ "task": "reinstall", "when": "idle", "postponements": 2 }));
    let orders = open_orders(&rig, &who);
    let [order] = orders.as_slice() else { panic!("{orders:?}") };
    assert!(order.id == id && order.check(who.machine, jiff::Timestamp::now()).is_ok());
    let Task::Reinstall(reinstall) = &order.task else { panic!("{order:?}") };
    assert_eq!((reinstall.profile.as_deref(), reinstall.timing.postponements), (Some("default"), 2));

    for (word, expected) in [
        (Progress::Received { waits: "until nobody uses it".into() }, "received"),
        (Progress::Postponed { times: 1, until: jiff::Timestamp::now() }, "postponed"),
        (Progress::Begun, "begun"),
        // Late words change nothing.
        (Progress::Received { waits: String::new() }, "begun"),
        (Progress::Done, "begun"),
    ] {
        assert_eq!(say(&rig, &who, id, &word).status(), 204);
        assert_eq!(state(&rig, &who), expected, "{word:?}");
    }
    let answer = install(&rig, &who, run_id(3), 1, id);
    assert_eq!(granted(&rig, &answer), Consent::Wipe);
    assert_eq!(state(&rig, &who), "used");
    assert!(open_orders(&rig, &who).is_empty());
    // The same run is told the same again; another is not.
    assert_eq!(granted(&rig, &install(&rig, &who, run_id(3), 1, id)), Consent::Wipe);
    assert_eq!(code(&install(&rig, &who, run_id(4), 1, id)), "order-used");
    // An older copy of its disk asks whether the order still counts.
    refused(say(&rig, &who, id, &Progress::Begun), 409, "order-used");

    rig.events(&who, &good_run(run_id(3)));
    assert_eq!(state(&rig, &who), "done");
    assert_eq!(code(&install(&rig, &who, run_id(5), 1, id)), "order-used");
}

#[test]
fn every_wrong_order_has_its_own_refusal() {
    let rig = Rig::new();
    let (who, other) = (installed(&rig, 1), installed(&rig, 2));
    assert_eq!(code(&install(&rig, &who, run_id(2), 1, OrderId([9; 16]))), "order-unknown");
    let foreign = given(&rig, &other, json!({ "task": "reinstall" }));
    assert_eq!(code(&install(&rig, &who, run_id(3), 1, foreign)), "order-other-machine");
    refused(say(&rig, &who, foreign, &Progress::Begun), 403, "order-other-machine");

    // Two at once: the second is refused with what to do, or replaces the first.
    let first = given(&rig, &who, json!({ "task": "reinstall" }));
    let issue: Issue = refused(give(&rig, &who, json!({ "task": "reinstall" })), 409, "order-open");
    assert!(issue.next.contains("--replace"), "{issue}");
    let second = given(&rig, &who, json!({ "task": "reinstall", "replace": true, "wipe": true }));
    assert_eq!(code(&install(&rig, &who, run_id(4), 1, first)), "order-cancelled");
    refused(say(&rig, &who, first, &Progress::Begun), 409, "order-cancelled");
    assert_eq!(open_orders(&rig, &who).iter().map(|o| o.id).collect::<Vec<_>>(), [second]);

    // With people's files: the profile it is sent with says that they are not kept.
    let answer = install(&rig, &who, run_id(5), 1, second);
    assert_eq!(granted(&rig, &answer), Consent::Wipe);
    let bundle: Bundle = answer.profile.open(&rig.server().site_key).unwrap();
    assert_eq!(bundle.profile.storage.unwrap().keep_homes, Some(false));

    let brief = given(&rig, &who, json!({ "task": "reinstall" }));
    assert_eq!(open_orders(&rig, &who).iter().map(|o| o.id).collect::<Vec<_>>(), [brief]);
    backdate(&rig, brief, ago(2), ago(1));
    // Given by the server itself, which reads all of them anew then.
    let reboot = given(&rig, &other, json!({ "task": "reboot" }));
    assert_eq!(code(&install(&rig, &other, run_id(6), 2, reboot)), "order-of-another-kind");
    assert_eq!(code(&install(&rig, &who, run_id(7), 1, brief)), "order-expired");
    refused(say(&rig, &who, brief, &Progress::Begun), 409, "order-expired");
    assert!(open_orders(&rig, &who).is_empty());
    let never = rig.enrol(&inventory(3)).identity;
    refused(give(&rig, &never, json!({ "task": "reinstall" })), 400, "never-installed");
    refused(give(&rig, &who, json!({ "task": "reinstall", "profile": "nope" })), 400, "profile-unknown");
    refused(give(&rig, &who, json!({ "task": "reboot", "postponements": 99 })), 400, "order-odd");
}

#[test]
fn an_order_is_gone_on_with_as_long_as_its_installation_is_not_over() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let id = given(&rig, &who, json!({ "task": "reinstall" }));
    granted(&rig, &install(&rig, &who, run_id(2), 1, id));
    // A mirror was away: the installer fails with nothing changed, and tries again half a minute later.
    let failed = |run| {
        let issues = vec![Issue::new("package-unreachable", "", "no mirror answers", "")];
        event(run, 1, EventKind::Failed { phase: Phase::Stage, issues, disks_changed: false })
    };
    rig.events(&who, &[failed(run_id(2))]);
    granted(&rig, &install(&rig, &who, run_id(3), 1, id));
    rig.events(&who, &[failed(run_id(3))]);
    // The old system is back and says so: now it is over.
    let issue = Issue::new("order-not-carried-out", "", "no mirror answers", "");
    assert_eq!(say(&rig, &who, id, &Progress::Refused { issue }).status(), 204);
    assert_eq!(state(&rig, &who), "refused");
    assert_eq!(code(&install(&rig, &who, run_id(4), 1, id)), "order-used");
    // What a person permits does not depend on an old order that still lies there.
    rig.allow(&who, "blank");
    assert_eq!(granted(&rig, &install(&rig, &who, run_id(5), 1, id)), Consent::Blank);
}

/// The installer has given up trying, and a person looked: it goes on with what was ordered, not with something like it.
#[test]
fn after_help_an_order_is_gone_on_with_as_it_was_given() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let id = given(&rig, &who, json!({ "task": "reinstall", "wipe": true, "streamed": true }));
    let mut machine = inventory(1);
    machine.disks = vec![disk(Some("WD-A"), Some("AKENE_BOOT"))];
    let asks = |run, attempts| -> RunResponse {
        let inventory = machine.clone();
        let request = RunRequest { run, inventory, profile: None, order: Some(id), attempts };
        ok(rig.post_as(&who, "/v1/runs", &request))
    };
    assert_eq!(granted(&rig, &asks(run_id(2), None)), Consent::Streamed);
    rig.events(&who, &[event(run_id(2), 1, EventKind::PhaseStarted { phase: Phase::Install })]);
    // However well the order counts, it waits for a person.
    assert_eq!(code(&asks(run_id(3), Some(5))), "failed-too-often");
    assert_eq!(state(&rig, &who), "used");
    rig.allow(&who, "wipe");
    let answer = asks(run_id(3), Some(5));
    assert_eq!(granted(&rig, &answer), Consent::Wipe, "as much as the person said");
    let bundle: Bundle = answer.profile.open(&rig.server().site_key).unwrap();
    assert_eq!(bundle.profile.storage.unwrap().keep_homes, Some(false), "people's files were to go");
    let run: String = beside(&rig, &format!("SELECT run FROM orders WHERE id = '{id}'"));
    assert_eq!(run, run_id(3).to_string());
    // The permission is for that run, which is told the same again.
    assert_eq!(granted(&rig, &asks(run_id(3), None)), Consent::Wipe);
    assert_eq!(code(&asks(run_id(4), Some(5))), "failed-too-often");
    rig.events(&who, &good_run(run_id(3)));
    assert_eq!(state(&rig, &who), "done");
    // What is over is over, whatever a person permits.
    rig.allow(&who, "blank");
    let answer = asks(run_id(5), Some(5));
    assert_eq!(granted(&rig, &answer), Consent::Blank);
    let bundle: Bundle = answer.profile.open(&rig.server().site_key).unwrap();
    assert!(bundle.profile.storage.is_none_or(|storage| storage.keep_homes != Some(false)));
}

/// What a person permits is what they said, however much an order once permitted that still lies on the disk.
#[test]
fn a_permission_is_not_widened_by_an_order_that_is_used_up() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let id = given(&rig, &who, json!({ "task": "reinstall", "wipe": true, "streamed": true }));
    // Turned off before it changed anything.
    assert_eq!(granted(&rig, &install(&rig, &who, run_id(2), 1, id)), Consent::Streamed);
    assert_eq!(code(&install(&rig, &who, run_id(3), 1, id)), "order-used");
    rig.allow(&who, "blank");
    let answer = install(&rig, &who, run_id(4), 1, id);
    assert_eq!(granted(&rig, &answer), Consent::Blank);
    let bundle: Bundle = answer.profile.open(&rig.server().site_key).unwrap();
    assert!(bundle.profile.storage.is_none_or(|storage| storage.keep_homes != Some(false)));
    // Nor is it the order's from now on: the next attempt would have all of that again.
    let issues = vec![Issue::new("package-unreachable", "", "no mirror answers", "")];
    let failed = EventKind::Failed { phase: Phase::Stage, issues, disks_changed: false };
    rig.events(&who, &[event(run_id(4), 1, failed)]);
    assert_eq!(code(&install(&rig, &who, run_id(5), 1, id)), "order-used");
    // What it asked for is there all the same.
    rig.allow(&who, "wipe");
    assert_eq!(granted(&rig, &install(&rig, &who, run_id(6), 1, id)), Consent::Wipe);
    assert_eq!(state(&rig, &who), "used");
    rig.events(&who, &good_run(run_id(6)));
    assert_eq!(state(&rig, &who), "done");
}

#[test]
fn of_the_orders_that_are_over_the_newest_are_kept() {
    let rig = Rig::new();
    let (who, other) = (installed(&rig, 1), installed(&rig, 2));
    let reinstall = given(&rig, &who, json!({ "task": "reinstall" }));
    granted(&rig, &install(&rig, &who, run_id(2), 1, reinstall));
    let kept = given(&rig, &other, json!({ "task": "logs" }));
    assert_eq!(say(&rig, &other, kept, &Progress::Done).status(), 204);
    let mut last = None;
    for _ in 0..105 {
        let id = given(&rig, &who, json!({ "task": "inventory" }));
        assert_eq!(say(&rig, &who, id, &Progress::Done).status(), 204);
        last = Some(id);
    }
    let open = given(&rig, &who, json!({ "task": "inventory" }));
    let of = |who: &Identity| {
        beside::<i64>(&rig, &format!("SELECT count(*) FROM orders WHERE machine = '{}'", who.machine))
    };
    assert_eq!((of(&who), of(&other)), (102, 1));
    for id in [reinstall, open, last.unwrap()] {
        assert_eq!(beside::<i64>(&rig, &format!("SELECT count(*) FROM orders WHERE id = '{id}'")), 1);
    }
}

/// What all machines of a mass order say twice a minute must not make the server read all of it again.
#[test]
fn how_far_an_order_is_makes_nobody_read_all_orders_again() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let id = given(&rig, &who, json!({ "task": "reinstall" }));
    let clock = || beside::<i64>(&rig, "SELECT n FROM order_clock");
    let changed = || beside::<String>(&rig, "SELECT changed FROM orders");
    let given = clock();
    let waits = |percent: u32| Progress::Received { waits: format!("fetching packages: {percent} %") };
    for percent in 0..20 {
        assert_eq!(say(&rig, &who, id, &waits(percent)).status(), 204);
    }
    let last = changed();
    assert_eq!(say(&rig, &who, id, &waits(19)).status(), 204);
    assert_eq!(changed(), last, "the same word again is no news");
    let postponed = Progress::Postponed { times: 1, until: jiff::Timestamp::now() };
    for word in [postponed, Progress::Begun] {
        assert_eq!(say(&rig, &who, id, &word).status(), 204);
    }
    assert_eq!(clock(), given);
    assert_eq!(open_orders(&rig, &who).len(), 1);
    granted(&rig, &install(&rig, &who, run_id(2), 1, id));
    assert_eq!(clock(), given + 1);
    assert!(open_orders(&rig, &who).is_empty());
}

#[test]
fn one_order_that_cannot_be_read_hides_no_other() {
    let mut rig = Rig::new();
    let (who, other) = (installed(&rig, 1), installed(&rig, 2));
    let broken = given(&rig, &who, json!({ "task": "inventory" }));
    let good = given(&rig, &who, json!({ "task": "logs" }));
    let _: i64 = beside(
        &rig,
        &format!("UPDATE orders SET document = '{{}}', envelope = '{{}}' WHERE id = '{broken}' RETURNING n"),
    );
    let ids = |rig: &Rig, who| open_orders(rig, who).iter().map(|order| order.id).collect::<Vec<_>>();
    let new = given(&rig, &other, json!({ "task": "logs" }));
    assert_eq!((ids(&rig, &who), ids(&rig, &other)), (vec![good], vec![new]));
    rig.restart();
    assert_eq!((ids(&rig, &who), ids(&rig, &other)), (vec![good], vec![new]));
    assert_eq!(rig.admin("/v1/admin/orders")["orders"].as_array().unwrap().len(), 2);
    assert_eq!(state(&rig, &who), "given");
}

/// Ordered on Monday, installed from a stick on Tuesday: what people put there since is not wiped on Thursday.
#[test]
fn another_installation_ends_what_was_ordered_before() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let old = given(&rig, &who, json!({ "task": "reinstall", "wipe": true, "when": "idle" }));
    let logs = given(&rig, &who, json!({ "task": "logs" }));
    rig.allow(&who, "wipe");
    rig.run(&who, run_id(2), &inventory(1));
    let confirmation = good_run(run_id(2));
    let (last, before) = confirmation.split_last().unwrap();
    rig.events(&who, before);
    assert_eq!(open_orders(&rig, &who).len(), 2);
    rig.events(&who, std::slice::from_ref(last));
    assert_eq!(open_orders(&rig, &who).iter().map(|o| o.id).collect::<Vec<_>>(), [logs]);
    let issue = refused(say(&rig, &who, old, &Progress::Begun), 409, "order-cancelled");
    assert!(issue.message.contains("by another installation"), "{issue}");

    // What is ordered while an installation is at work is meant for its system.
    rig.allow(&who, "wipe");
    rig.run(&who, run_id(3), &inventory(1));
    let new = given(&rig, &who, json!({ "task": "reinstall" }));
    rig.events(&who, &good_run(run_id(3)));
    assert!(open_orders(&rig, &who).iter().any(|order| order.id == new));
}

/// A power cut after the disks were changed: the installer goes on without the network, as a run of its own.
#[test]
fn an_installer_that_went_on_alone_has_carried_its_order_out() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let id = given(&rig, &who, json!({ "task": "reinstall" }));
    granted(&rig, &install(&rig, &who, run_id(2), 1, id));
    rig.events(&who, &good_run(run_id(3)));
    assert_eq!(state(&rig, &who), "done");
}

#[test]
fn an_order_that_began_in_time_may_expire_during_the_restart() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let begun = |began: i64, expired: i64| {
        let id = given(&rig, &who, json!({ "task": "reinstall", "replace": true }));
        assert_eq!(say(&rig, &who, id, &Progress::Begun).status(), 204);
        backdate(&rig, id, ago(began), ago(expired));
        id
    };
    // Not for ever.
    assert_eq!(code(&install(&rig, &who, run_id(2), 1, begun(7, 1))), "order-expired");
    let id = begun(5, 1);
    assert_eq!(state(&rig, &who), "begun");
    granted(&rig, &install(&rig, &who, run_id(3), 1, id));
    // What never began is not begun now.
    let late = given(&rig, &who, json!({ "task": "reinstall" }));
    backdate(&rig, late, ago(5), ago(1));
    assert_eq!(code(&install(&rig, &who, run_id(4), 1, late)), "order-expired");
}

fn make_lock(site: &Site, revision: &str) -> Sha256 {
    site.write_lock(&lock("default", revision)).unwrap();
    Sha256::of(&site.signed_lock("default").unwrap().unwrap())
}

fn lock_for(rig: &Rig, who: &Identity) -> Sha256 {
    let request = rig.client.get(rig.url("/v1/profiles/default/lock"));
    let answer = request.header("authorization", who.bearer().expose()).send().unwrap();
    assert_eq!(answer.status(), 200);
    Sha256::of(&answer.bytes().unwrap())
}

#[test]
fn an_order_pins_its_lock_as_long_as_it_may_be_carried_out() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let site = Site::open(&rig.site_dir()).unwrap();
    let old = make_lock(&site, "1");
    let id = given(&rig, &who, json!({ "task": "reinstall" }));
    let new = make_lock(&site, "2");
    assert_eq!(lock_for(&rig, &who), old);
    granted(&rig, &install(&rig, &who, run_id(2), 1, id));
    assert_eq!(lock_for(&rig, &who), old);
    // Nothing was ever heard of that run again.
    let created = |at: jiff::Timestamp| {
        let run = run_id(2);
        let _: i64 =
            beside(&rig, &format!("UPDATE runs SET created = '{at}' WHERE id = '{run}' RETURNING n"));
    };
    created(ago(6 * 24));
    assert_eq!(lock_for(&rig, &who), old);
    created(ago(8 * 24));
    assert_eq!(lock_for(&rig, &who), new);
}

#[test]
fn a_lock_is_forgotten_when_no_order_needs_it_however_many_there_are() {
    let rig = Rig::new();
    let (who, other) = (installed(&rig, 1), installed(&rig, 2));
    let site = Site::open(&rig.site_dir()).unwrap();
    let kept = |sum| site.kept_lock(sum).unwrap().is_some();
    let old = make_lock(&site, "1");
    let first = given(&rig, &who, json!({ "task": "reinstall" }));
    let new = make_lock(&site, "2");
    let last = given(&rig, &other, json!({ "task": "reinstall" }));
    let _: i64 = beside(
        &rig,
        &format!(
            "WITH RECURSIVE many (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM many WHERE k < 1100)
             INSERT INTO orders (id, machine, created, expires, document, envelope, state, open, changed, lock)
             SELECT printf('%032x', k), machine, created, expires, document, envelope, state, open, changed, lock
             FROM orders JOIN many WHERE id = '{last}' RETURNING n"
        ),
    );
    assert_eq!(beside::<i64>(&rig, "SELECT count(*) FROM orders"), 1102);
    given(&rig, &who, json!({ "task": "reboot" }));
    assert!(kept(old) && kept(new));
    let issue = Issue::new("boot-menu-refuses", "", "it does", "");
    assert_eq!(say(&rig, &who, first, &Progress::Refused { issue }).status(), 204);
    given(&rig, &who, json!({ "task": "logs" }));
    assert!(!kept(old) && kept(new));
}

#[test]
fn while_somebody_watches_an_order_is_heard_of_at_once() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let nothing = tag(&ask(&rig, &who, None, 0));
    // The administrator has just looked.
    rig.machine(&who);
    let before = Instant::now();
    let answer = ask(&rig, &who, Some(&nothing), 1);
    assert!(answer.status() == 304 && answer.headers()["akene-wait"] == "50");
    assert!(before.elapsed() >= Duration::from_secs(1));

    let asked = Instant::now();
    let (heard, given) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let answer = ask(&rig, &who, Some(&nothing), 50);
            (Instant::now(), ok::<OpenOrders>(answer).orders.len())
        });
        std::thread::sleep(Duration::from_millis(500));
        // As the administrator does it, beside the running server.
        let site = rig.site_dir();
        let cmd = Cmd::new(env!("CARGO_BIN_EXE_akene-server")).arg("order").arg(&site);
        SystemRunner.run(&cmd.args([&who.asset.to_string(), "inventory"])).unwrap();
        let given = Instant::now();
        let (heard, count) = waiting.join().unwrap();
        assert_eq!(count, 1);
        (heard, given)
    });
    // Not when its question would have been answered anyway.
    assert!(heard.duration_since(asked) < Duration::from_secs(50), "{:?}", heard.duration_since(asked));
    println!("heard of after {:?}", heard.saturating_duration_since(given));
}

#[test]
fn the_commands_give_list_and_take_back() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let run = |args: &[&str]| {
        let cmd = Cmd::new(env!("CARGO_BIN_EXE_akene-server"))
            .args(&args[..1])
            .arg(rig.site_dir())
            .args(&args[1..]);
        SystemRunner.run(&cmd).map(|out| out.text())
    };
    let asset = who.asset.to_string();
    let args =
        ["order", &asset, "reinstall", "--at", "2099-01-01T02:00:00Z", "--postpone", "2", "--expires", "12h"];
    let said = run(&args).unwrap();
    assert!(
        said.contains("reinstall with the profile default, keeping people's files, at 2099-01-01T02:00:00Z"),
        "{said}"
    );
    assert!(said.contains("counts until 2099-01-01T14:00:00Z"), "{said}");
    let again = run(&args).unwrap_err();
    assert!(format!("{again:#}").contains("--replace"), "{again:#}");
    // Local time, as `date` understands it. At noon, since the night misses an hour once a year.
    run(&["order", &asset, "reboot", "--at", "tomorrow 12:00"]).unwrap();
    let list = |more: &[&str]| {
        let cmd = Cmd::new(env!("CARGO_BIN_EXE_akene-server"))
            .args(["orders", "list"])
            .arg(rig.site_dir())
            .args(more);
        SystemRunner.run(&cmd).unwrap().text()
    };
    let text = list(&[]);
    assert!(text.lines().count() == 2 && text.contains("waits until the computer asks for it"), "{text}");
    assert!(run(&["machines"]).unwrap().contains("reboot, at "));
    let orders: Value = serde_json::from_str(&list(&[&asset, "--json"])).unwrap();
    let id = orders[1]["order"].as_str().unwrap();
    let cancel = || {
        let cmd = Cmd::new(env!("CARGO_BIN_EXE_akene-server"))
            .args(["orders", "cancel"])
            .arg(rig.site_dir())
            .arg(id);
        SystemRunner.run(&cmd)
    };
    cancel().unwrap();
    assert!(format!("{:#}", cancel().unwrap_err()).contains("order-cancelled"));
    assert!(list(&[]).contains("cancelled by the administrator"));
}

/// What an idle fleet costs: ten thousand machines that ask every five minutes are 33 questions a second.
#[test]
fn ten_thousand_idle_machines_cost_little() {
    let rig = Rig::new();
    let who = installed(&rig, 1);
    let db = akene_server::db::Db::open(&rig.site_dir().join("state/akene.db")).unwrap();
    db.run(|db| {
        let text: String = db.query_row("SELECT inventory FROM machines LIMIT 1", [], |row| row.get(0))?;
        for n in 0..10_000 {
            db.execute(
                "INSERT INTO machines (id, serial, created, seen, peer, inventory, recognised) VALUES (?1, ?2, '', '', '', ?3, 'new')",
                rusqlite::params![format!("{n:032x}"), 5000 + n, text],
            )?;
            let sum = akene_server::db::machines::sum(&akene_protocol::Secret::new(format!("secret {n}")));
            db.execute("INSERT INTO credentials VALUES (?1, ?2, '')", rusqlite::params![sum, format!("{n:032x}")])?;
        }
        Ok(())
    })
    .unwrap();
    let requests = || {
        db.run(|db| Ok(db.query_row("SELECT count(*) FROM requests", [], |row| row.get::<_, i64>(0))?))
            .unwrap()
    };
    let known = tag(&ask(&rig, &who, None, 0));
    let before = requests();
    let (threads, each) = (4, 500);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (rig, known) = (&rig, &known);
            scope.spawn(move || {
                let client = client(rig.server().ca.as_deref().unwrap());
                for n in 0..each {
                    let machine = (thread * each + n) * 5;
                    let bearer = format!("Bearer {machine:032x}:secret {machine}");
                    let request = client.get(rig.url("/v1/orders")).header("if-none-match", known);
                    assert_eq!(request.header("authorization", bearer).send().unwrap().status(), 304);
                }
            });
        }
    });
    let rate = f64::from(threads * each) / start.elapsed().as_secs_f64();
    println!("{rate:.0} answers a second of `nothing new`, on {threads} connections that stay open");
    assert_eq!(requests(), before, "idle machines are not worth a line each");

    // Each with a connection of its own, as it is after five minutes.
    let start = Instant::now();
    for n in 0..60 {
        let client = client(rig.server().ca.as_deref().unwrap());
        let request = client.get(rig.url("/v1/orders")).header("if-none-match", &known);
        let bearer = format!("Bearer {n:032x}:secret {n}");
        assert_eq!(request.header("authorization", bearer).send().unwrap().status(), 304);
    }
    println!(
        "{:.0} a second with a new TLS connection each, one after the other",
        60.0 / start.elapsed().as_secs_f64()
    );
    let wrong =
        rig.client.get(rig.url("/v1/orders")).header("authorization", format!("Bearer {:032x}:wrong", 1));
    refused(wrong.send().unwrap(), 401, "credential-refused");
}
