//! What a server on the Internet meets: garbage, crowds, power cuts, curiosity.
#![allow(missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner as _, Running, Streams, SystemRunner};
use akene_protocol::Secret;
use akene_protocol::api::{EnrolRequest, EventBatch, Identity, MAX_BODY, MAX_EVENTS};
use akene_protocol::event::{EventKind, Level};
use akene_server::site::init::{Options, init};
use akene_server::site::{Site, keys};
use common::*;

/// The program itself, as a process that can be killed.
struct Program {
    process: Running,
    log: PathBuf,
    url: String,
}

impl Program {
    fn serve(site: &Path) -> Program {
        let log = site.with_extension("log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let before = std::fs::read_to_string(&log).unwrap().len();
        let cmd = Cmd::new(env!("CARGO_BIN_EXE_akene-server"));
        let cmd = cmd.arg("serve").arg(site).args(["--listen", "127.0.0.1:0"]);
        let process = cmd.spawn(Streams::Log(file)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Some((_, rest)) = text[before..].split_once("listening on 127.0.0.1:")
                && let Some((port, _)) = rest.split_once('\n')
            {
                return Program { process, log, url: format!("https://127.0.0.1:{port}") };
            }
            assert!(Instant::now() < deadline, "the server does not start: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&self, signal: &str) {
        SystemRunner.run(&Cmd::new("kill").args([signal, &self.process.id().to_string()])).unwrap();
    }
}

fn new_site(dir: &tempfile::TempDir) -> Site {
    init(&dir.path().join("site"), &Options::new("https://127.0.0.1:8443")).unwrap()
}

fn program(args: &[&str]) -> Cmd {
    Cmd::new(env!("CARGO_BIN_EXE_akene-server")).args(args)
}

#[test]
fn garbage_is_refused_with_an_issue() {
    let rig = Rig::new();
    let who = rig.enrol(&inventory(1)).identity;
    let inventory_json = serde_json::to_string(&inventory(1)).unwrap();
    let deep = "[".repeat(100_000);
    let wrong_version = inventory_json.replacen("\"version\":1", "\"version\":7", 1);
    let bodies: Vec<Vec<u8>> = [
        "", "null", "[]", "{}", "\u{0}", "{\"events\":1}", "{\"events\":[{}]}", &deep, "<html>",
        "{\"events\":[{\"version\":1,\"run\":\"0101010101010101\",\"seq\":0,\"at\":\"2026-01-01T00:00:00Z\",\"uptime-ms\":1,\"type\":\"installed\"}]}",
        "{\"events\":[{\"version\":9,\"run\":\"0101010101010101\",\"seq\":1,\"at\":\"2026-01-01T00:00:00Z\",\"uptime-ms\":1,\"type\":\"installed\"}]}",
        "{\"events\":[{\"version\":1,\"run\":\"0101010101010101\",\"seq\":18446744073709551615,\"at\":\"2026-01-01T00:00:00Z\",\"uptime-ms\":1,\"type\":\"installed\"}]}",
        "{\"events\":[{\"version\":1,\"run\":\"zz\",\"seq\":1,\"at\":\"never\",\"uptime-ms\":1,\"type\":\"danced\"}]}",
        &format!("{{\"run\":\"0101010101010101\",\"inventory\":{wrong_version}}}"),
        &format!("{{\"token\":\"{}\",\"inventory\":{wrong_version}}}", rig.token.expose()),
        &inventory_json,
    ]
    .iter()
    .map(|b| b.as_bytes().to_vec())
    .chain([vec![0xff; 1000], (0..=255).cycle().take(70_000).collect()])
    .collect();
    for path in ["/v1/enrol", "/v1/runs", "/v1/events"] {
        for body in &bodies {
            let request = rig.client.post(rig.url(path)).header("authorization", who.bearer().expose());
            let answer = request.body(body.clone()).send().unwrap();
            let status = answer.status().as_u16();
            let text = answer.text().unwrap();
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(status, 400, "{path} {shown}: {text}");
            serde_json::from_str::<akene_protocol::Issue>(&text)
                .unwrap_or_else(|e| panic!("{path} {shown}: {text}: {e}"));
        }
    }
    let get = |path: &str| rig.client.get(rig.url(path)).send().unwrap();
    refused(get("/v1/nothing"), 404, "no-such-page");
    refused(get("/v1/enrol"), 405, "wrong-method");
    refused(get("/%00/%ff/../../etc/passwd"), 404, "no-such-page");
    let many = vec![event(run_id(1), 1, EventKind::Installed); MAX_EVENTS + 1];
    refused(rig.post_as(&who, "/v1/events", &EventBatch { events: many }), 400, "too-many-events");
    let log = |name: &str| rig.post_as(&who, &format!("/v1/logs/{}/{name}", run_id(1)), &"x");
    refused(log("..%2f..%2fx"), 400, "log-name");
    refused(log(&"x".repeat(65)), 400, "log-name");
    // Nothing of all this left a trace but the machine itself.
    assert_eq!(rig.machine(&who)["events"].as_array().unwrap().len(), 0);
    assert_eq!(rig.machine(&who)["state"], "enrolled");
}

#[test]
fn random_bytes_and_headers_break_nothing() {
    let rig = Rig::new();
    let who = rig.enrol(&inventory(1)).identity;
    let template = serde_json::to_vec(&EventBatch { events: good_run(run_id(1)) }).unwrap();
    let mut seed = 0x9e37_79b9_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..300 {
        let mut body = template.clone();
        for _ in 0..=random() % 8 {
            let at = random() as usize % body.len();
            match random() % 3 {
                0 => body[at] = random() as u8,
                1 => body.truncate(at.max(1)),
                _ => body.insert(at, b"{}[]\",:0-e"[random() as usize % 10]),
            }
        }
        let request = rig.client.post(rig.url("/v1/events")).header("authorization", who.bearer().expose());
        let status = request.body(body.clone()).send().unwrap().status().as_u16();
        assert!(matches!(status, 200 | 400), "{status}: {}", String::from_utf8_lossy(&body));
    }
    for value in ["", "Bearer", "Bearer :", "Bearer x:y", "Basic ???", "Bearer \u{e9}", "Digest a=b"] {
        let request = rig.client.post(rig.url("/v1/events")).header("authorization", value.as_bytes());
        refused(request.body("{}").send().unwrap(), 401, "credential-refused");
    }
}

#[test]
fn too_large_a_body_is_not_read() {
    let rig = Rig::new();
    let who = rig.enrol(&inventory(1)).identity;
    let send = |size: usize| {
        let url = rig.url(&format!("/v1/logs/{}/big", run_id(1)));
        let request = rig.client.post(url).header("authorization", who.bearer().expose());
        request.body(vec![b'x'; size]).send()
    };
    assert_eq!(send(MAX_BODY).unwrap().status(), 204);
    // The server may answer, or cut the connection while we are still sending.
    match send(MAX_BODY + 1) {
        Ok(answer) => drop(refused(answer, 413, "body-too-large")),
        Err(error) => assert!(error.is_request() || error.is_body(), "{error:?}"),
    }
}

#[test]
fn fifty_machines_at_once() {
    let rig = Rig::new();
    let start = Instant::now();
    let mut identities: Vec<Identity> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50_u8)
            .map(|n| {
                let rig = &rig;
                scope.spawn(move || {
                    let machine = inventory(u32::from(n) + 1);
                    let who = rig.enrol(&machine).identity;
                    assert!(rig.run(&who, run_id(n), &machine).grant.is_some());
                    for batch in good_run(run_id(n)).chunks(3) {
                        assert_eq!(rig.events(&who, batch), batch.len());
                    }
                    who
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    eprintln!("50 machines from enrolment to confirmation: {:?}", start.elapsed());
    identities.sort_by_key(|who| who.asset);
    identities.dedup_by_key(|who| who.asset);
    assert_eq!(identities.len(), 50);
    let fleet = rig.admin("/v1/admin/machines");
    assert!(fleet["machines"].as_array().unwrap().iter().all(|m| m["state"] == "confirmed"), "{fleet}");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let site = new_site(&dir);
    let ca = std::fs::read_to_string(site.secret("ca.pem")).unwrap();
    let akene_protocol::stamp::Source::Server { token: Some(token), .. } = site.stamp().unwrap().source
    else {
        panic!()
    };
    let mut server = Program::serve(site.dir());
    let client = client(&ca);
    let request = EnrolRequest { token, known: None, inventory: inventory(1) };
    let answer = client.post(format!("{}/v1/enrol", server.url)).json(&request).send().unwrap();
    let who = ok::<akene_protocol::api::EnrolResponse>(answer).identity;
    let mut acknowledged = 0;
    for round in 1..=3_u64 {
        let url = format!("{}/v1/events", server.url);
        let (writing, wrote) = mpsc::channel();
        let killer = {
            let id = server.process.id().to_string();
            std::thread::spawn(move || {
                wrote.recv().expect("nothing was acknowledged");
                // In the midst of it, further on each time.
                std::thread::sleep(Duration::from_millis(150 * round));
                SystemRunner.run(&Cmd::new("kill").args(["-9", &id])).unwrap();
            })
        };
        let mut writing = Some(writing);
        loop {
            let seq = acknowledged + 1;
            let log = EventKind::Log { level: Level::Info, message: format!("line {seq}") };
            let batch = EventBatch { events: vec![event(run_id(1), seq, log)] };
            let sent = client.post(&url).header("authorization", who.bearer().expose()).json(&batch).send();
            let Ok(answer) = sent else { break };
            assert!(answer.status().is_success(), "line {seq}: {}", answer.status());
            acknowledged += 1;
            if let Some(writing) = writing.take() {
                writing.send(()).unwrap();
            }
        }
        drop(writing);
        killer.join().unwrap();
        server = Program::serve(site.dir());
        let token = keys::read_secret(&site.secret("admin-token")).unwrap();
        let url = format!("{}/v1/admin/machines/{}", server.url, who.machine);
        let machine: serde_json::Value = ok(client.get(url).bearer_auth(token.trim()).send().unwrap());
        let kept = machine["events"].as_array().unwrap().len() as u64;
        // One more may have been kept whose acknowledgement did not get through.
        assert!(kept == acknowledged || kept == acknowledged + 1, "kept {kept}, acknowledged {acknowledged}");
    }
    eprintln!("{acknowledged} events acknowledged around three kills, none lost");
    // And a polite end is an end without error.
    server.kill("-TERM");
    let status =
        server.process.wait(Duration::from_secs(120)).unwrap().expect("SIGTERM does not end the server");
    assert!(status.success(), "{status}");
}

#[test]
fn no_secret_is_written_anywhere_but_in_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let site = new_site(&dir);
    let ca = std::fs::read_to_string(site.secret("ca.pem")).unwrap();
    let akene_protocol::stamp::Source::Server { token: Some(token), .. } = site.stamp().unwrap().source
    else {
        panic!()
    };
    let admin = keys::read_secret(&site.secret("admin-token")).unwrap().trim().to_owned();
    let server = Program::serve(site.dir());
    let client = client(&ca);
    let enrol = |token: &Secret, known: Option<Identity>| {
        let request = EnrolRequest { token: token.clone(), known, inventory: inventory(1) };
        client.post(format!("{}/v1/enrol", server.url)).json(&request).send().unwrap()
    };
    let who = ok::<akene_protocol::api::EnrolResponse>(enrol(&token, None)).identity;
    // Two that were installed without a network: one joins, one waits.
    let (joined, waits) = (minted(8, 123_456), minted(9, 123_457));
    for (stick, who) in [(Stick::of(&site, 1, 1), &joined), (Stick::of(&site, 2, 0), &waits)] {
        let sealed =
            stick.sealed(&report(who, run_id(who.machine.0[0]), &inventory(u32::from(who.machine.0[0])), 1));
        let answer = client.post(format!("{}/v1/reports", server.url)).body(sealed).send().unwrap();
        let accepted = answer.text().unwrap();
        assert!(
            accepted.contains("\"admitted\":") && !accepted.contains(who.credential.expose()),
            "{accepted}"
        );
    }
    let seal = keys::read_secret(&site.secret("seal.key")).unwrap().trim().to_owned();
    let secrets = [
        token.expose(),
        who.credential.expose(),
        &admin,
        joined.credential.expose(),
        waits.credential.expose(),
        &seal,
    ];
    enrol(&token, Some(who.clone()));
    enrol(&Secret::new(format!("{}x", token.expose())), Some(who.clone()));
    let post = |path: &str, body: String| {
        let request =
            client.post(format!("{}{path}", server.url)).header("authorization", who.bearer().expose());
        request.body(body).send().unwrap()
    };
    post("/v1/events", serde_json::to_string(&EventBatch { events: good_run(run_id(1)) }).unwrap());
    post("/v1/events", "{".into());
    post(&format!("/v1/runs?token={}", token.expose()), "{}".into());
    for path in ["/", "/v1/admin/machines", "/machines/1001-6", "/machines/123456-5"] {
        let answer =
            client.get(format!("{}{path}", server.url)).basic_auth("admin", Some(&admin)).send().unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let page = answer.text().unwrap();
        for secret in secrets {
            assert!(!page.contains(secret), "{path} shows a secret");
        }
    }
    // A browser adds the password to what any page on the web makes it ask for: it only opens what is looked at.
    let allow = client.post(format!("{}/v1/admin/machines/{}/allow", server.url, who.asset));
    let allow = allow.basic_auth("admin", Some(&admin)).body(r#"{"consent":"wipe"}"#).send().unwrap();
    assert_eq!(allow.status(), 401);
    server.kill("-TERM");
    let mut process = server.process;
    process.wait(Duration::from_secs(120)).unwrap().expect("SIGTERM does not end the server");

    let mut looked_at = 0;
    let mut files = vec![server.log.clone()];
    files.extend(std::fs::read_dir(site.dir().join("state")).unwrap().map(|e| e.unwrap().path()));
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        looked_at += bytes.len();
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{} holds a secret", file.display());
        }
        // The search itself works: what is no secret is found.
        if file.extension().is_some_and(|e| e == "db") {
            assert!(bytes.windows(13).any(|w| w == b"/v1/admin/mac"), "requests are not kept");
        }
    }
    assert!(looked_at > 10_000, "{looked_at} bytes");
}

#[test]
fn openssl_accepts_what_init_makes() {
    let dir = tempfile::tempdir().unwrap();
    for (url, host) in [
        ("https://192.0.2.7:8443", "IP Address:192.0.2.7"),
        ("https://akene.example", "DNS:akene.example"),
        ("https://[2001:db8::7]", "IP Address:2001:DB8:0:0:0:0:0:7"),
    ] {
        let at = dir.path().join(host.replace([' ', ':'], "_"));
        SystemRunner.run(&program(&["init", "--url", url]).arg(&at)).unwrap();
        let site = Site::open(&at).unwrap();
        let openssl = |args: &[&str]| {
            let cmd = args.iter().fold(Cmd::new("openssl"), |cmd, arg| {
                if arg.contains('.') && !arg.contains('/') && site.secret(arg).is_file() {
                    cmd.arg(site.secret(arg))
                } else {
                    cmd.arg(arg)
                }
            });
            SystemRunner.run(&cmd).unwrap().text()
        };
        let verified =
            openssl(&["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem", "server.pem"]);
        assert!(verified.contains("OK"), "{verified}");
        let text = openssl(&["x509", "-in", "server.pem", "-noout", "-text"]);
        assert!(text.contains(host), "{text}");
        assert!(text.contains("CA:FALSE"), "{text}");
        // Valid for nine years yet, and since yesterday.
        openssl(&["x509", "-in", "server.pem", "-noout", "-checkend", "283824000"]);
        openssl(&["x509", "-in", "ca.pem", "-noout", "-checkend", "914544000"]);
        let start = openssl(&["x509", "-in", "server.pem", "-noout", "-startdate", "-dateopt", "iso_8601"]);
        let start: jiff::Timestamp =
            start.trim().trim_start_matches("notBefore=").replace(' ', "T").parse().unwrap();
        let age = jiff::Timestamp::now().duration_since(start).as_hours();
        assert!((23..=25).contains(&age), "{start}");
        // The pin is what openssl computes from the certificate.
        let stamp = site.stamp().unwrap();
        let akene_protocol::stamp::Source::Server { tls, .. } = &stamp.source else { panic!() };
        let key = openssl(&["x509", "-in", "server.pem", "-noout", "-pubkey"]);
        let der = at.join("key.der");
        let convert = Cmd::new("openssl")
            .args(["pkey", "-pubin", "-outform", "DER", "-out"])
            .arg(&der)
            .stdin(key.clone());
        SystemRunner.run(&convert).unwrap();
        assert_eq!(tls.pins[0], akene_protocol::Sha256::of(&std::fs::read(&der).unwrap()));
        // openssl reads the site key as the same Ed25519 key.
        let public = at.join("site.der");
        let convert = Cmd::new("openssl").args(["pkey", "-pubout", "-outform", "DER", "-in"]);
        SystemRunner.run(&convert.arg(site.secret("site.key")).arg("-out").arg(&public)).unwrap();
        assert!(std::fs::read(&public).unwrap().ends_with(stamp.site_key.0.as_bytes()));

        let before = std::fs::read(site.secret("server.pem")).unwrap();
        SystemRunner.run(&program(&["certificate", "renew"]).arg(&at)).unwrap();
        assert_ne!(before, std::fs::read(site.secret("server.pem")).unwrap());
        assert!(openssl(&["verify", "-x509_strict", "-CAfile", "ca.pem", "server.pem"]).contains("OK"));
        assert_eq!(key, openssl(&["x509", "-in", "server.pem", "-noout", "-pubkey"]));
    }
}

#[test]
fn a_given_certificate_is_used_and_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (key, chain, site) = (file("k.pem"), file("c.pem"), dir.path().join("site"));
    // RSA, in the older form of key file, as many authorities' tools make it.
    let subject = ["-subj", "/CN=akene.example", "-addext", "subjectAltName=DNS:akene.example"];
    let make = Cmd::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-keyout", &key]);
    SystemRunner.run(&make.args(["-out", &chain]).args(subject)).unwrap();
    let old = file("old.pem");
    SystemRunner.run(&Cmd::new("openssl").args(["rsa", "-traditional", "-in", &key, "-out", &old])).unwrap();
    let args =
        ["init", "--url", "https://akene.example", "--certificate", &chain, "--key", &old, "--ca", &chain];
    SystemRunner.run(&program(&args).arg(&site)).unwrap();
    let site = Site::open(&site).unwrap();
    assert!(!site.secret("ca.key").exists());
    let akene_protocol::stamp::Source::Server { tls, .. } = site.stamp().unwrap().source else { panic!() };
    assert!(tls.ca.unwrap().contains("BEGIN CERTIFICATE"));
    let der = file("key.der");
    SystemRunner
        .run(&Cmd::new("openssl").args(["pkey", "-in", &key, "-pubout", "-outform", "DER", "-out", &der]))
        .unwrap();
    assert_eq!(tls.pins, [akene_protocol::Sha256::of(&std::fs::read(&der).unwrap())]);
    let error = SystemRunner.run(&program(&["certificate", "renew"]).arg(site.dir())).unwrap_err();
    assert!(format!("{error:#}").contains("issued by somebody else"), "{error:#}");
}

#[test]
fn profile_check_names_line_and_nearest_key() {
    let dir = tempfile::tempdir().unwrap();
    let site = new_site(&dir);
    let check = program(&["profile", "check"]).arg(site.dir());
    assert!(SystemRunner.run(&check).unwrap().text().contains("No fault found"));
    let class = site.dir().join("classes/desktop-light/class.toml");
    let text = std::fs::read_to_string(&class).unwrap();
    std::fs::write(&class, format!("{text}\n[sshh]\ninstall-server = true\n")).unwrap();
    let config = site.dir().join("site.toml");
    let toml = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        format!("{toml}\n[[profile-rules]]\nwhen = \"ram < 1 GiB\"\nprofile = \"defolt\"\n"),
    )
    .unwrap();
    let error = format!("{:#}", SystemRunner.run(&check).unwrap_err());
    let line = text.matches('\n').count() + 2;
    assert!(error.contains(&format!("classes/desktop-light/class.toml:{line}:")), "{error}");
    assert!(error.contains("did you mean `ssh`?") && error.contains("did you mean `default`?"), "{error}");
    assert!(error.contains("2 faults"), "{error}");
}

#[test]
fn an_exported_profile_opens_with_the_site_key() {
    let dir = tempfile::tempdir().unwrap();
    let site = new_site(&dir);
    let class = site.dir().join("classes/base");
    std::fs::create_dir_all(class.join("files/etc/akene.d")).unwrap();
    std::fs::write(class.join("files/etc/akene.d/a.conf"), "host ${hostname}\n").unwrap();
    std::fs::write(class.join("files/etc/akene.d/b.bin"), [0xff, 0, 1]).unwrap();
    std::fs::create_dir(class.join("scripts")).unwrap();
    std::fs::write(class.join("scripts/10-first"), "#!/bin/sh\ntrue\n").unwrap();
    std::fs::write(class.join("debconf"), "# comment\nfoo foo/bar boolean true\n").unwrap();
    let out = dir.path().join("profile.json");
    let export = program(&["profile", "export"]).arg(site.dir()).arg("default").arg("--output").arg(&out);
    SystemRunner.run(&export).unwrap();
    let envelope = akene_protocol::Envelope::parse(&std::fs::read(&out).unwrap()).unwrap();
    let bundle: akene_protocol::Bundle = envelope.open(&site.stamp().unwrap().site_key).unwrap();
    let base = &bundle.classes[0].1;
    let paths: Vec<&str> = base.files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["/etc/akene.d/a.conf", "/etc/akene.d/b.bin"]);
    assert_eq!(base.files[1].base64.as_deref(), Some("/wAB"));
    assert_eq!(base.late_commands.len(), 1);
    assert!(base.debconf_selections.contains(&"foo foo/bar boolean true".to_owned()));
    // A link that would carry a key out of secrets/ is refused.
    std::os::unix::fs::symlink(site.secret("site.key"), class.join("files/key")).unwrap();
    assert!(format!("{:#}", SystemRunner.run(&export).unwrap_err()).contains("not a plain file"));
}

#[test]
fn the_commands_see_what_the_server_sees() {
    let rig = Rig::new();
    let machine = inventory(1);
    let who = rig.enrol(&machine).identity;
    rig.run(&who, run_id(1), &machine);
    rig.events(&who, &good_run(run_id(1)));
    let site = rig.site_dir().display().to_string();
    let run = |args: &[&str]| SystemRunner.run(&program(args)).unwrap().text();
    assert!(run(&["machines", &site]).contains("1001-6"));
    let list: serde_json::Value = serde_json::from_str(&run(&["machines", &site, "--json"])).unwrap();
    assert_eq!(list[0]["state"], "confirmed");
    assert_eq!(run(&["events", &site, "1001-6"]).lines().count(), good_run(run_id(1)).len());
    assert!(run(&["show", &site, "10016"]).contains("Dell Inc."));
    assert!(run(&["allow", &site, "1001-6", "--wipe"]).contains("may be destroyed"));
    assert_eq!(rig.machine(&who)["allowed"], "wipe");
    let error = SystemRunner.run(&program(&["allow", &site, "1001-7"])).unwrap_err();
    assert!(format!("{error:#}").contains("typing error"), "{error:#}");
    let line = run(&["token", "new", &site, "--note", "sticks"]);
    let (id, secret) = line.trim().split_once(' ').unwrap();
    let enrol = || {
        let request = EnrolRequest { token: Secret::new(secret), known: None, inventory: inventory(2) };
        rig.post("/v1/enrol", &request)
    };
    assert!(enrol().status().is_success());
    run(&["token", "revoke", &site, id]);
    refused(enrol(), 401, "token-refused");
    assert!(run(&["token", "list", &site]).contains("sticks"));
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    use std::io::{Read as _, Write as _};
    let rig = Rig::new();
    let start = Instant::now();
    let mut silent: Vec<_> = (0..20).map(|_| rig.wire()).collect();
    for (n, stream) in silent.iter_mut().enumerate() {
        // Half a request, half a word, nothing but the handshake, not even that.
        match n % 4 {
            0 => stream.write_all(b"GET /v1/time HTTP/1.1\r\nHost:").unwrap(),
            1 => stream.write_all(b"GE").unwrap(),
            2 => {
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock).unwrap();
                }
            }
            _ => {}
        }
    }
    for stream in &mut silent {
        let mut rest = Vec::new();
        // Closed in whatever way, with or without an answer, but closed.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "still open after {:?}",
                start.elapsed()
            );
        }
    }
    println!("all were closed after {:?}", start.elapsed());
    // Meanwhile nobody else was kept waiting.
    rig.enrol(&inventory(1));
}
