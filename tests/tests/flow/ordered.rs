//! The order the installed system has left: the installer finds it on the boot partition and names it.

use std::fs::{self, File};

use akene_agent::fetch::http::Web;
use akene_agent::fetch::{Server, known};
use akene_agent::net::Online;
use akene_agent::probe::{self, ProbeRoot};
use akene_agent::report::Reporter;
use akene_agent::run::native::{self, Outcome, Says};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::event::{Event, EventKind};
use akene_protocol::stamp::{Home, Source, Stamp};
use akene_protocol::{Envelope, RunId};
use akene_server::db::{Db, orders};
use akene_server::order::{Kind, Wish, place};
use akene_tests::disks::can_run;
use akene_tests::image::digest;

use crate::rig::{IDLE, Rig, tls_of, with_partition};

#[test]
fn the_installer_names_the_order_on_the_boot_partition() {
    ordered(|stamp| stamp);
}

/// There the installer has the stamp of the medium that it was installed from, which names its home.
#[test]
fn a_machine_that_was_installed_with_no_network_is_reinstalled_by_order() {
    ordered(|stamp| {
        let Source::Server { url, tls, .. } = &stamp.source else { panic!("no server in the stamp") };
        let seal = akene_protocol::seal::SealSecret::from_bytes([6; 32]).public();
        let home = Some(Home { url: url.clone(), tls: tls.clone(), seal });
        let source = Source::Medium { consent: Default::default(), attended: true, home };
        Stamp { source, ..stamp }.at_home().unwrap()
    });
}

fn ordered(stamp_on_disk: impl Fn(Stamp) -> Stamp) {
    if !can_run() {
        return;
    }
    let rig = Rig::new(&format!("{IDLE}\n[storage.disks]\nserial = \"NOPE\"\n"));
    let stamp = rig.server().stamp().unwrap();
    let file = rig.image();
    File::create(&file).unwrap().set_len(6 << 30).unwrap();
    SystemRunner.run(&Cmd::new("sfdisk").arg("--quiet").arg(&file).stdin("label: gpt\n,600MiB,L\n")).unwrap();

    // A machine that was installed, and is ordered to be installed again.
    let online = Online::on_host(None);
    let web = Web::new(tls_of(&mut stamp.clone()), None, &online.resolver, true).unwrap();
    let Source::Server { url, token: Some(token), .. } = &stamp.source else {
        panic!("no server in the stamp")
    };
    let server = Server::new(&web, url);
    let nothing = tempfile::tempdir().unwrap();
    let machine = probe::inventory(&SystemRunner, &ProbeRoot::recorded(nothing.path()));
    let identity = server.enrol(token, None, &machine).unwrap().identity;
    let run = RunId([1; 8]);
    server.run(&identity, run, &machine, None, None).unwrap();
    let event = |seq, kind| Event { version: 1, run, seq, at: jiff::Timestamp::now(), uptime_ms: seq, kind };
    let confirmed = EventKind::Confirmed { system: "Debian".into(), kernel: "6".into() };
    server.events(&identity, &[event(1, EventKind::Installed), event(2, confirmed)]).unwrap();
    let site = rig.server().site();
    let (db, key) = (Db::open(&site.database()).unwrap(), site.key().unwrap());
    let order = db
        .run(|db| {
            let machine = akene_server::db::machines::get(db, identity.machine)?;
            Ok(place(db, site, &key, &machine, &Wish::new(Kind::Reinstall))?.order)
        })
        .unwrap();
    with_partition(&file, |node, _| {
        SystemRunner.run(&Cmd::new("mkfs.ext4").args(["-q", "-F", "-L", "AKENE_BOOT"]).arg(node)).unwrap();
        let top = rig.dir.path().join("boot");
        fs::create_dir_all(&top).unwrap();
        SystemRunner.run(&Cmd::new("mount").arg(node).arg(&top)).unwrap();
        fs::create_dir(top.join("akene")).unwrap();
        fs::write(top.join(known::PATH), serde_json::to_vec(&identity).unwrap()).unwrap();
        let envelope = Envelope::sign(&order, &key);
        fs::write(top.join(known::ORDER), serde_json::to_vec(&envelope).unwrap()).unwrap();
        SystemRunner.run(&Cmd::new("umount").arg(&top)).unwrap();
    });

    // Another site's, or another machine's, is nobody's.
    with_partition(&file, |_, found| {
        let quiet = Reporter::for_new_run().unwrap();
        let asked = |machine, key| known::order(found, machine, key, &quiet);
        assert_eq!(asked(identity.machine, &stamp.site_key), Some(order.id));
        assert_eq!(asked(akene_protocol::MachineId([9; 16]), &stamp.site_key), None);
        let foreign = Rig::new(IDLE).server().stamp().unwrap().site_key;
        assert_eq!(asked(identity.machine, &foreign), None);
    });

    // The run is permitted by it, and uses it up; that it fails for another reason leaves the disk as it is.
    let before = digest(&file).unwrap();
    let mut request = rig.request();
    request.says = Says::Site(Box::new(stamp_on_disk(stamp.clone())));
    let Outcome::Failed(failure) = native::run(&request, &SystemRunner).unwrap() else { panic!() };
    assert_eq!(failure.phase, akene_protocol::Phase::Plan, "{failure:?}");
    assert_eq!(digest(&file).unwrap(), before, "reading wrote");
    let stored = db.run(|db| Ok(orders::get(db, order.id)?)).unwrap().unwrap();
    assert_eq!(stored.state, orders::State::Used);
    assert!(stored.run.is_some_and(|used| used != run));
}
