//! What one token, one computer and everybody together may ask for at most, and what they are told then.
#![allow(missing_docs)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use akene_protocol::api::EnrolRequest;
use common::{Rig, inventory, ok, refused, run_id};

fn with_limits(limits: &str) -> Rig {
    let mut rig = Rig::new();
    let file = rig.site_dir().join("site.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n[limits]\n{limits}\n")).unwrap();
    rig.restart();
    rig.client = common::client(rig.server().ca.as_deref().unwrap());
    rig
}

#[test]
fn a_token_makes_only_so_many_computers_known_in_an_hour() {
    let rig = with_limits("new-machines-per-hour = 3");
    let known: Vec<_> = (1..=3).map(|n| rig.enrol(&inventory(n))).collect();
    let more = |n| EnrolRequest { token: rig.token.clone(), known: None, inventory: inventory(n) };
    let issue = refused(rig.post("/v1/enrol", &more(4)), 429, "too-many-new-machines");
    assert!(issue.message.contains("3 new computers"), "{issue}");
    assert!(issue.next.contains("limits.new-machines-per-hour"), "{issue}");
    // Nothing was kept of it, and those that are known are let in as before.
    assert_eq!(rig.admin("/v1/admin/machines")["machines"].as_array().unwrap().len(), 3);
    rig.enrol_known(&inventory(1), Some(known[0].identity.clone()));
    // Another token has its own count.
    let site = akene_server::site::Site::open(&rig.site_dir()).unwrap();
    let mut tokens = site.tokens().unwrap();
    let (_, token) = tokens.add("other sticks", None).unwrap();
    tokens.write(&rig.site_dir().join("secrets/enrol-tokens.toml")).unwrap();
    let other = EnrolRequest { token, ..more(5) };
    ok::<serde_json::Value>(rig.post("/v1/enrol", &other));
    // The limit counts as it is written now.
    let file = rig.site_dir().join("site.toml");
    let text = fs::read_to_string(&file).unwrap().replace("per-hour = 3", "per-hour = 4");
    fs::write(&file, text).unwrap();
    ok::<serde_json::Value>(rig.post("/v1/enrol", &more(4)));
}

#[test]
fn old_logs_make_way_and_one_run_may_not_have_too_much() {
    let rig = with_limits("log-bytes-per-machine = \"1 MiB\"");
    let who = rig.enrol(&inventory(1)).identity;
    let other = rig.enrol(&inventory(2)).identity;
    let send = |who: &akene_protocol::api::Identity, run: u8, name: &str, kib: usize| {
        let url = rig.url(&format!("/v1/logs/{}/{name}", run_id(run)));
        let request = rig.client.post(url).header("authorization", who.bearer().expose());
        request.body(vec![b'x'; kib << 10]).send().unwrap()
    };
    assert_eq!(send(&other, 9, "install.log", 800).status(), 204);
    assert_eq!(send(&who, 1, "install.log", 600).status(), 204);
    assert_eq!(send(&who, 2, "install.log", 600).status(), 204);
    let kept = |who: &akene_protocol::api::Identity, run: u8| {
        let url = rig.url(&format!("/v1/admin/machines/{}/logs/{}/install.log", who.machine, run_id(run)));
        rig.client.get(url).bearer_auth(rig.server().admin_token.expose()).send().unwrap().status() == 200
    };
    assert!(!kept(&who, 1), "the oldest makes way");
    assert!(kept(&who, 2) && kept(&other, 9), "and nothing else");
    // Sent again it replaces itself; more of the same run does not fit.
    assert_eq!(send(&who, 2, "install.log", 700).status(), 204);
    let issue = refused(send(&who, 2, "kernel.log", 600), 413, "too-much-log");
    assert!(issue.message.contains("1 MiB"), "{issue}");
    assert!(issue.next.contains("limits.log-bytes-per-machine"), "{issue}");
    assert!(kept(&who, 2), "what is refused costs nothing that was kept");
}

#[test]
fn the_body_of_an_enrolment_is_bounded_before_its_token_is_looked_at() {
    let rig = with_limits("enrolment-bytes = \"16 KiB\"");
    let send = |size: usize| rig.client.post(rig.url("/v1/enrol")).body(vec![b' '; size]).send();
    match send((16 << 10) + 1) {
        Ok(answer) => {
            let issue = refused(answer, 413, "body-too-large");
            assert!(issue.next.contains("limits.enrolment-bytes"), "{issue}");
        }
        // The connection may be cut while we are still sending.
        Err(error) => assert!(error.is_request() || error.is_body(), "{error:?}"),
    }
    refused(send(16 << 10).unwrap(), 400, "request-unreadable");
    rig.enrol(&inventory(1));
    // Other requests have their own bound.
    let events = rig.client.post(rig.url("/v1/events")).body(vec![b' '; 64 << 10]).send().unwrap();
    refused(events, 401, "credential-refused");
}

#[test]
fn a_connection_too_many_is_told_why_and_others_work_on() {
    let rig = with_limits("connections = 4");
    let before = rig.client.get(rig.url("/v1/time")).send().unwrap();
    assert_eq!(before.status(), 200, "one connection is kept open by the client");
    let busy: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(rig.server().addr).unwrap()).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let refusal = loop {
        // The idle ones may not have been accepted yet. A client that was served keeps its connection, and would be
        // served for ever.
        let other = common::client(rig.server().ca.as_deref().unwrap());
        let answer = other.get(rig.url("/v1/time")).send().unwrap();
        if answer.status() == 503 {
            break answer;
        }
        assert!(Instant::now() < deadline, "the fifth connection is served like any other");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(refusal.headers().contains_key("retry-after"));
    let issue = refused(refusal, 503, "too-many-connections");
    assert!(issue.next.contains("limits.connections"), "{issue}");
    let status = rig.client.get(rig.url("/v1/time")).send().unwrap().status();
    assert_eq!(status, 200, "who was there before is served");

    // Beyond what can be told, connections are closed without a word.
    let mut crowd: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(rig.server().addr).unwrap()).collect();
    let mut closed = 0;
    for stream in &mut crowd {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let over = matches!(stream.read(&mut [0; 1]), Ok(0)) || stream.write_all(b"x").is_err();
        closed += usize::from(over);
    }
    assert!(closed >= 4, "nobody was turned away");
    // When they go, there is room again.
    drop((busy, crowd));
    let again = Instant::now() + Duration::from_secs(120);
    let fresh = || common::client(rig.server().ca.as_deref().unwrap()).get(rig.url("/v1/time")).send();
    while !fresh().is_ok_and(|answer| answer.status() == 200) {
        assert!(Instant::now() < again, "the places are not given back");
        std::thread::sleep(Duration::from_millis(200));
    }
}
