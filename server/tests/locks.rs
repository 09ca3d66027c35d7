//! The signed lock of a profile, as machines get it.

mod common;

use std::fs;

use akene_protocol::lock::ProfileLock;
use akene_protocol::{Envelope, PublicKey, Sha256};
use akene_server::site::Site;
use common::{Rig, inventory, lock, refused};

#[test]
fn a_lock_goes_out_to_machines_of_the_site_and_only_when_it_is_new_to_them() {
    let rig = Rig::new();
    let site = Site::open(&rig.site_dir()).unwrap();
    let who = rig.enrol(&inventory(1)).identity;
    let url = rig.url("/v1/profiles/default/lock");
    let get = |url: &str, known: Option<&str>| {
        let mut request = rig.client.get(url).header("authorization", who.bearer().expose());
        if let Some(known) = known {
            request = request.header("if-none-match", known);
        }
        request.send().unwrap()
    };
    refused(get(&url, None), 404, "no-lock");

    let path = site.write_lock(&lock("default", "1")).unwrap();
    assert_eq!(path, site.dir().join("locks/default.json"));
    refused(rig.client.get(&url).send().unwrap(), 401, "credential-refused");
    let answer = get(&url, None);
    assert_eq!(answer.status(), 200);
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let text = answer.bytes().unwrap();
    assert_eq!(text, fs::read(&path).unwrap());
    assert_eq!(tag, format!("\"{}\"", Sha256::of(&text)));
    let key = PublicKey(site.key().unwrap().verifying_key());
    let opened: ProfileLock = Envelope::parse(&text).unwrap().open(&key).unwrap();
    assert_eq!(opened, lock("default", "1"));

    let again = get(&url, Some(&tag));
    assert_eq!((again.status().as_u16(), again.bytes().unwrap().len()), (304, 0));
    site.write_lock(&lock("default", "2")).unwrap();
    assert_eq!(get(&url, Some(&tag)).status(), 200);

    // A name leads nowhere else.
    fs::copy(&path, site.dir().join("other.json")).unwrap();
    for name in ["..%2fother", ".%2e%2fother", "default%2f..%2f..%2fother", "other"] {
        refused(get(&rig.url(&format!("/v1/profiles/{name}/lock")), None), 404, "no-lock");
    }
    assert!(site.write_lock(&lock("../other", "1")).is_err());
}
