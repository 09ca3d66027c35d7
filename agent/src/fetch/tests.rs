//! Everything a server or an attacker can answer.

use super::*;
use akene_protocol::api::RunResponse;
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::profile::Layer;
use akene_protocol::stamp::Tls;
use akene_protocol::{AssetNumber, Secret};
use ed25519_dalek::SigningKey;
use http::Answer;
use std::sync::Mutex;
use std::time::Duration;

fn inventory() -> Inventory {
    Inventory::unknown(FirmwareKind::Bios)
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn stamp(source: Source) -> Stamp {
    Stamp::new("Lannion", source, PublicKey(key().verifying_key()))
}

fn server() -> Source {
    Source::Server { url: "https://s".into(), tls: Tls::default(), token: Some(Secret::new("t0ken-t0ken")) }
}

fn identity() -> Identity {
    Identity {
        machine: MachineId([3; 16]),
        asset: AssetNumber::new(1042),
        credential: Secret::new("credential"),
    }
}

fn bundle() -> Bundle {
    Bundle {
        site: "Lannion".into(),
        name: "desk".into(),
        revision: "1".into(),
        classes: vec![],
        profile: Layer::default(),
    }
}

/// Answers from a script.
struct Script(Mutex<Vec<Result<Answer, Issue>>>, Mutex<Vec<Request>>);
impl Script {
    fn new(answers: Vec<Result<Answer, Issue>>) -> Self {
        Script(Mutex::new(answers), Mutex::default())
    }
}
impl Http for Script {
    fn send(&self, request: &Request) -> Result<Answer, Issue> {
        self.1.lock().unwrap().push(request.clone());
        self.0.lock().unwrap().remove(0)
    }
}

fn answer(status: u16, body: impl serde::Serialize) -> Result<Answer, Issue> {
    Ok(Answer {
        status,
        objection: None,
        body: serde_json::to_vec(&body).unwrap(),
        tag: None,
        ask: Default::default(),
    })
}

fn orders(source: Source, answers: Vec<Result<Answer, Issue>>, run: RunId) -> Result<Orders> {
    let (stamp, http) = (stamp(source), Script::new(answers));
    let site = Site { stamp: &stamp, http: &http };
    let reporter = Reporter::new(run, 1);
    site.orders(&identity(), &inventory(), None, None, &reporter, &|| anyhow::bail!("no medium"))
}

fn code(error: anyhow::Error) -> String {
    error.downcast_ref::<Issue>().unwrap_or_else(|| panic!("no issue: {error:#}")).code.clone()
}

const RUN: RunId = RunId([5; 8]);

fn grant(run: RunId, machine: MachineId, seconds: i64) -> Envelope {
    let expires = Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    Envelope::sign(&Grant { machine, run, consent: Consent::Blank, expires }, &key())
}

fn answer_with(grant: Option<Envelope>, refusal: Option<Issue>) -> Vec<Result<Answer, Issue>> {
    vec![answer(200, RunResponse { profile: Envelope::sign(&bundle(), &key()), grant, refusal })]
}

#[test]
fn a_signed_profile_and_a_grant_are_taken() {
    let answers = answer_with(Some(grant(RUN, identity().machine, 60)), None);
    let orders = orders(server(), answers, RUN).unwrap();
    assert_eq!(orders.bundle, bundle());
    assert_eq!(orders.permission.unwrap().consent(), Consent::Blank);
}

#[test]
fn without_a_token_a_machine_is_who_its_disks_say_and_nobody_is_enrolled() {
    let source = Source::Server { url: "https://s".into(), tls: Tls::default(), token: None };
    let answers = answer_with(Some(grant(RUN, identity().machine, 60)), None);
    let (stamp, http) = (stamp(source), Script::new(answers));
    let (site, reporter) = (Site { stamp: &stamp, http: &http }, Reporter::new(RUN, 1));
    assert_eq!(code(site.identify(None, &inventory(), &reporter).unwrap_err()), "no-identity");
    let who = site.identify(Some(identity()), &inventory(), &reporter).unwrap();
    assert_eq!(who, identity());
    let none = || anyhow::bail!("no medium");
    let orders = site.orders(&who, &inventory(), None, None, &reporter, &none).unwrap();
    assert_eq!(orders.permission.unwrap().consent(), Consent::Blank);
    let asked: Vec<_> =
        http.1.lock().unwrap().iter().map(|r| (r.url.clone(), r.authorization.clone())).collect();
    assert_eq!(asked, [("https://s/v1/runs".to_owned(), Some(who.bearer()))]);
}

#[test]
fn a_grant_for_another_machine_run_or_time_is_no_grant() {
    let mine = identity().machine;
    let other = SigningKey::from_bytes(&[8; 32]);
    let expires = Timestamp::now() + jiff::SignedDuration::from_secs(60);
    let forged = Envelope::sign(&Grant { machine: mine, run: RUN, consent: Consent::Wipe, expires }, &other);
    for (envelope, expected) in [
        (Some(grant(RUN, MachineId([4; 16]), 60)), "grant-other-machine"),
        (Some(grant(RunId([6; 8]), mine, 60)), "grant-other-run"),
        (Some(grant(RUN, mine, -60)), "grant-expired"),
        (Some(forged), "signature-wrong"),
        (Some(Envelope::sign(&bundle(), &key())), "document-wrong"),
        (None, "no-grant"),
    ] {
        let orders = orders(server(), answer_with(envelope, None), RUN).unwrap();
        assert_eq!(orders.permission.unwrap_err().code, expected);
    }
    let refusal = Issue::new("already-installed", "", "installed on 2026-11-22", "order a reinstall");
    let orders = orders(server(), answer_with(None, Some(refusal.clone())), RUN).unwrap();
    assert_eq!(orders.permission.unwrap_err(), refusal);
}

#[test]
fn a_profile_signed_by_another_key_is_refused_from_every_source() {
    let forged = Envelope::sign(&bundle(), &SigningKey::from_bytes(&[8; 32]));
    let response = RunResponse { profile: forged.clone(), grant: None, refusal: None };
    assert_eq!(code(orders(server(), vec![answer(200, response)], RUN).unwrap_err()), "signature-wrong");
    let source = Source::Static { url: "https://s/p".into(), tls: Tls::default(), consent: Consent::Wipe };
    assert_eq!(code(orders(source, vec![answer(200, &forged)], RUN).unwrap_err()), "signature-wrong");
    let (stamp, http) =
        (stamp(Source::Medium { consent: Consent::Blank, attended: false, home: None }), Script::new(vec![]));
    let text = serde_json::to_vec(&forged).unwrap();
    let error = Site { stamp: &stamp, http: &http }
        .orders(&identity(), &inventory(), None, None, &Reporter::new(RUN, 1), &|| {
            Ok((text.clone(), "the medium".into()))
        })
        .unwrap_err();
    assert_eq!(code(error), "signature-wrong");
}

#[test]
fn an_unknown_key_in_a_signed_profile_is_named() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Odd {
        site: String,
        name: String,
        revision: String,
        classes: Vec<()>,
        profile: serde_json::Value,
    }
    impl Document for Odd {
        const PAYLOAD_TYPE: &'static str = Bundle::PAYLOAD_TYPE;
    }
    let odd = Odd {
        site: "s".into(),
        name: "n".into(),
        revision: "1".into(),
        classes: vec![],
        profile: serde_json::json!({ "pakages": ["vim"] }),
    };
    let response = RunResponse { profile: Envelope::sign(&odd, &key()), grant: None, refusal: None };
    let error = orders(server(), vec![answer(200, response)], RUN).unwrap_err();
    assert!(error.to_string().contains("pakages"), "{error}");
    assert_eq!(code(error), "document-unreadable");
}

#[test]
fn a_refusal_is_the_servers_own_and_garbage_is_named() {
    let theirs = Issue::new("token-refused", "", "this token was revoked", "stamp again");
    assert_eq!(code(orders(server(), vec![answer(401, &theirs)], RUN).unwrap_err()), "token-refused");
    for (status, body, expected) in [
        (401, "<html>", "token-refused"),
        (302, "", "portal"),
        (404, "", "not-found"),
        (418, "", "server-refuses"),
        (503, "", "server-error"),
        (429, "", "server-busy"),
        (200, "<html>log in here", "answer-unreadable"),
        (200, "{}", "answer-unreadable"),
    ] {
        let answer =
            Ok(Answer { status, objection: None, body: body.into(), tag: None, ask: Default::default() });
        assert_eq!(code(orders(server(), vec![answer], RUN).unwrap_err()), expected, "{status} {body}");
    }
}

#[test]
fn what_may_pass_is_tried_again_and_a_refusal_is_not() {
    let pause = Duration::from_millis(1);
    let patience = Patience { attempts: 3, first: pause, longest: 2 * pause, ..Patience::default() };
    let reporter = Reporter::new(RUN, 1);
    for (code, attempts) in [("server-silent", 3), ("certificate-wrong", 1), ("token-refused", 1)] {
        let mut made = 0;
        let result: Result<()> = patiently(patience, &reporter, "asking", || {
            made += 1;
            Err(Issue::new(code, "", "no", "").into())
        });
        assert_eq!((result.unwrap_err().to_string().contains("no"), made), (true, attempts), "{code}");
    }
}

#[test]
fn without_a_server_the_stamp_decides_and_an_identity_is_minted() {
    let source = |consent| Source::Static { url: "https://s/p".into(), tls: Tls::default(), consent };
    let signed = Envelope::sign(&bundle(), &key());
    let orders_with = |consent| orders(source(consent), vec![answer(200, &signed)], RUN).unwrap().permission;
    assert_eq!(orders_with(Consent::Wipe).unwrap().consent(), Consent::Wipe);
    assert_eq!(orders_with(Consent::None).unwrap_err().code, "no-grant");

    let (stamp, http) = (stamp(source(Consent::Blank)), Script::new(vec![]));
    let site = Site { stamp: &stamp, http: &http };
    let reporter = Reporter::new(RUN, 1);
    let a = site.identify(None, &inventory(), &reporter).unwrap();
    let b = site.identify(None, &inventory(), &reporter).unwrap();
    assert_ne!(a.machine, b.machine);
    assert_eq!(site.identify(Some(a.clone()), &inventory(), &reporter).unwrap(), a);
}

#[test]
fn permission_covers_no_more_than_it_says() {
    let plan = |needs| akene_planner::Plan {
        version: akene_planner::VERSION,
        disks: vec![],
        groups: vec![],
        rung: "full".into(),
        destroys: vec![akene_planner::Destroyed { name: "sda2".into(), what: "Windows".into() }],
        needs,
        notes: vec![],
    };
    for (given, needs, expected) in [
        (Consent::Blank, Consent::Blank, None),
        (Consent::Wipe, Consent::Blank, None),
        (Consent::Wipe, Consent::Wipe, None),
        (Consent::Blank, Consent::Wipe, Some("consent-needed")),
        (Consent::None, Consent::Blank, Some("no-consent")),
        (Consent::None, Consent::None, Some("no-consent")),
    ] {
        let result = Permission::given(given, "the test").allows(&plan(needs));
        assert_eq!(result.as_ref().err().map(|i| i.code.as_str()), expected, "{given:?} {needs:?}");
    }
}

/// Whatever holds a secret may end up in somebody's `{:?}`.
#[test]
fn nothing_shows_a_secret_when_it_is_printed_for_a_developer() {
    use akene_protocol::api::{EnrolRequest, EnrolResponse, Recognised, RunResponse};
    use base64::Engine as _;
    let hash = "$6$salt$planted-password-hash";
    let text = format!(
        "[identity]\nusername = \"vera\"\npassword = \"{hash}\"\n[[users]]\nname = \"paul\"\npassword = \"{hash}\"\n\
         [apt]\ndistribution = \"debian\"\nsuite = \"bookworm\"\n"
    );
    let profile = akene_protocol::profile::parse_layer(&text, "p.toml").unwrap();
    let bundle = Bundle {
        site: "s".into(),
        name: "p".into(),
        revision: "1".into(),
        classes: vec![("c".into(), profile.clone())],
        profile,
    };
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let envelope = Envelope::sign(&bundle, &key);
    let identity = Identity {
        machine: MachineId([1; 16]),
        asset: akene_protocol::AssetNumber::new(7),
        credential: akene_protocol::Secret::new("planted-credential"),
    };
    let source = Source::Server {
        url: "https://s".into(),
        tls: Default::default(),
        token: Some(akene_protocol::Secret::new("planted-token")),
    };
    let stamp = Stamp::new("s", source, PublicKey(key.verifying_key()));
    let empty = tempfile::tempdir().unwrap();
    let root = crate::probe::ProbeRoot::recorded(empty.path());
    let inventory = crate::probe::inventory(&akene_exec::RecordingRunner::default(), &root);
    let resolved = akene_protocol::resolve::resolve(&bundle, &inventory, Some(identity.asset)).unwrap();
    let orders = Orders {
        bundle: bundle.clone(),
        envelope: Some(envelope.clone()),
        permission: Ok(Permission::given(Consent::Blank, "a test")),
    };
    let enrol = EnrolRequest {
        token: akene_protocol::Secret::new("planted-token"),
        known: Some(identity.clone()),
        inventory,
    };
    let answer = EnrolResponse { identity: identity.clone(), recognised: Recognised::New };
    let run = RunResponse { profile: envelope.clone(), grant: None, refusal: None };
    let mut request = Request::new(Method::Post, "https://s/v1/runs", 1);
    request.authorization = Some(identity.bearer());
    let done = crate::run::Done::Installed { identity: identity.clone(), shutdown: resolved.shutdown };
    let shown = format!(
        "{stamp:#?} {identity:#?} {bundle:#?} {envelope:#?} {orders:#?} {resolved:#?} {enrol:#?} {answer:#?} {run:#?} \
         {request:#?} {done:#?}"
    );
    assert!(shown.contains("[hidden]") && shown.contains("vera"));
    let encoded = base64::engine::general_purpose::STANDARD.encode(serde_json::to_vec(&bundle).unwrap());
    for secret in [hash, "planted-credential", "planted-token", &encoded[40..80]] {
        assert!(!shown.contains(secret), "`{secret}` is shown");
    }
}
