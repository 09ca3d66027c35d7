//! A machine that was installed from a medium and is a server's since: whom its installer asks.
//!
//! The installer on its boot partition has the medium's stamp, which asks nobody. What was ordered at the server is carried
//! out with the server all the same, and help is asked for there: no medium is there then, or a forgotten one. That stamp
//! is the one which is kept from then on. Where the medium itself was started, whoever did it has the say, whatever lies on
//! the disks.

use akene_exec::Runner;
use akene_protocol::Stamp;

use crate::boot::{Cmdline, LiveSystem, Mode};
use crate::fetch::known;
use crate::probe::{self, ProbeRoot};
use crate::report::Reporter;

/// The stamp with which this start asks the server. `None`: the one there is counts.
pub(super) fn stamp(live: &LiveSystem, runner: &dyn Runner) -> Option<Stamp> {
    let stamp = live.stamp.as_ref().ok()?;
    turned(stamp, &live.cmdline, || is_ordered(stamp, runner))
}

fn turned(stamp: &Stamp, cmdline: &Cmdline, is_ordered: impl FnOnce() -> bool) -> Option<Stamp> {
    let home = stamp.at_home()?;
    let goes = match cmdline.mode {
        Mode::Help => true,
        Mode::Install => cmdline.from_disk && is_ordered(),
        Mode::Probe | Mode::Rescue => false,
    };
    goes.then_some(home)
}

/// Whether an order of the site's for this machine lies on a boot partition. What cannot be read there is said by the attempt.
fn is_ordered(stamp: &Stamp, runner: &dyn Runner) -> bool {
    let Ok(quiet) = Reporter::for_new_run() else { return false };
    let found = probe::inventory(runner, &ProbeRoot::default());
    known::identity(&found, &quiet)
        .is_some_and(|who| known::order(&found, who.machine, &stamp.site_key, &quiet).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_protocol::PublicKey;
    use akene_protocol::seal::SealSecret;
    use akene_protocol::stamp::{Home, Source, Tls};

    #[test]
    fn what_is_ordered_and_help_go_to_the_server_and_a_medium_that_was_started_does_not() {
        let tls = Tls { ca: Some("the site's".into()), pins: vec![] };
        let seal = SealSecret::from_bytes([6; 32]).public();
        let home = Home { url: "https://s".into(), tls: tls.clone(), seal };
        let key = PublicKey(ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key());
        let of = |home| {
            let source = Source::Medium { consent: Default::default(), attended: true, home };
            Stamp::new("s", source, key)
        };
        let server = Source::Server { url: "https://s".into(), tls, token: None };
        let medium = of(Some(home));
        for (arguments, ordered, goes) in [
            ("akene.mode=install akene.disk", true, true),
            ("akene.mode=install akene.disk", false, false),
            ("akene.mode=install", true, false),
            ("akene.mode=help akene.disk", false, true),
            ("akene.mode=probe akene.disk", true, false),
            ("akene.mode=rescue akene.disk", true, false),
        ] {
            let cmdline = Cmdline::parse(arguments);
            assert!(cmdline.issues.is_empty(), "{arguments}");
            let found = turned(&medium, &cmdline, || ordered).map(|stamp| stamp.source);
            assert_eq!(found, goes.then(|| server.clone()), "{arguments}, {ordered}");
            assert_eq!(turned(&of(None), &cmdline, || ordered), None);
        }
    }
}
