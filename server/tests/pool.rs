//! Package files by hash.

mod common;

use std::fs;

use akene_protocol::Sha256;
use akene_server::pool::Pool;
use common::{Rig, inventory, refused, soon};
use reqwest::blocking::Response;

fn deb(fill: u8) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    bytes.resize(300_000, fill);
    bytes
}

#[test]
fn files_go_out_by_hash_to_machines_of_the_site_only() {
    let rig = Rig::new();
    let content = deb(1);
    let sum = Sha256::of(&content);
    let file = rig.dir.path().join("thing_1_all.deb");
    fs::write(&file, &content).unwrap();
    let pool = Pool::of(rig.server().site());
    assert_eq!(pool.add(&file).unwrap(), (sum, true));
    assert_eq!(pool.add(&file).unwrap(), (sum, false));
    fs::write(&file, "no package").unwrap();
    assert!(format!("{:#}", pool.add(&file).unwrap_err()).contains("no Debian package"));
    assert_eq!(
        fs::read_dir(rig.site_dir().join("state/pool")).unwrap().count(),
        1,
        "something was left behind"
    );

    let who = rig.enrol(&inventory(1)).identity;
    let url = rig.url(&format!("/v1/pool/sha256/{sum}"));
    refused(rig.client.get(&url).send().unwrap(), 401, "credential-refused");
    let get = |url: &str, range: Option<&str>| -> Response {
        let mut request = rig.client.get(url).header("authorization", who.bearer().expose());
        if let Some(range) = range {
            request = request.header("range", range);
        }
        request.send().unwrap()
    };
    let whole = get(&url, None);
    assert_eq!(whole.status(), 200);
    assert!(whole.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(whole.headers()["content-length"], "300000");
    assert_eq!(whole.headers()["x-content-type-options"], "nosniff");
    assert_eq!(whole.bytes().unwrap(), content);

    let part = get(&url, Some("bytes=299000-"));
    assert_eq!(
        (part.status().as_u16(), &part.headers()["content-range"]),
        (206, &"bytes 299000-299999/300000".parse().unwrap())
    );
    assert_eq!(part.bytes().unwrap(), content[299_000..]);
    let part = get(&url, Some("bytes=5-9"));
    assert_eq!(part.bytes().unwrap(), content[5..10]);
    assert_eq!(get(&url, Some("bytes=300000-")).status(), 416);

    let other = Sha256::of(b"nothing");
    refused(get(&rig.url(&format!("/v1/pool/sha256/{other}")), None), 404, "not-in-pool");
    refused(get(&rig.url("/v1/pool/sha256/..%2F..%2Fakene.db"), None), 400, "not-a-hash");
}

#[test]
fn packages_of_a_class_are_in_the_pool_and_follow_what_lies_there() {
    let rig = Rig::new();
    let who = rig.enrol(&inventory(1)).identity;
    let dir = rig.site_dir().join("classes/ssh/packages");
    fs::create_dir_all(&dir).unwrap();
    let status = |content: &[u8]| {
        let url = rig.url(&format!("/v1/pool/sha256/{}", Sha256::of(content)));
        let answer = rig.client.get(url).header("authorization", who.bearer().expose()).send().unwrap();
        let status = answer.status().as_u16();
        if status == 200 {
            assert_eq!(answer.bytes().unwrap(), content);
        }
        status
    };
    assert_eq!(status(&deb(1)), 404);
    fs::write(dir.join("own_1_all.deb"), deb(1)).unwrap();
    fs::write(dir.join("README"), deb(3)).unwrap();
    assert_eq!((status(&deb(1)), status(&deb(3))), (200, 404));
    fs::remove_file(dir.join("own_1_all.deb")).unwrap();
    fs::write(dir.join("own_2_all.deb"), deb(2)).unwrap();
    assert_eq!((status(&deb(1)), status(&deb(2))), (404, 200));
}

#[test]
fn so_many_at_a_time_and_the_others_are_told_to_come_back() {
    let rig = Rig::new();
    let config = rig.site_dir().join("site.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[limits]\npool-streams = 1\n")).unwrap();
    let mut rig = rig;
    rig.restart();
    let content: Vec<u8> = [deb(1), vec![0; 30 << 20]].concat();
    let file = rig.dir.path().join("big_1_all.deb");
    fs::write(&file, &content).unwrap();
    let (sum, _) = Pool::of(rig.server().site()).add(&file).unwrap();
    let who = rig.enrol(&inventory(1)).identity;
    let get = || {
        let url = rig.url(&format!("/v1/pool/sha256/{sum}"));
        rig.client.get(url).header("authorization", who.bearer().expose()).send().unwrap()
    };
    // More than all buffers between here and there hold.
    let first = get();
    let second = get();
    assert!(second.headers().contains_key("retry-after"));
    refused(second, 503, "pool-busy");
    assert_eq!(first.bytes().unwrap().len(), content.len());
    let answer = soon(|| Some(get()).filter(|answer| answer.status() == 200));
    assert_eq!(answer.expect("the place was not given back").bytes().unwrap().len(), content.len());
}
