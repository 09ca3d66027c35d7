//! Getting to know what to install: enrolling, the signed profile, the permission.
//!
//! Where the profile comes from is written in the stamp; who may say that disks are changed follows
//! from it:
//!
//! | source | profile | permission | identity |
//! |---|---|---|---|
//! | `server` | `POST /v1/runs`, signed | a signed, one-shot [`Grant`] in the same answer | found on the disks if its credential fits, else the server's; without a token in the stamp, found on the disks |
//! | `static` | an envelope at the URL, signed | the consent in the stamp | found on the disks, else minted here |
//! | `medium` | on the medium, signed | the consent in the stamp, or a technician within it | found on the disks, else minted here |
//!
//! The profile's signed lock lies beside it ([`Site::lock`]): at the server under `/v1/profiles/NAME/lock`, at a
//! static address `X.json` as `X.lock.json`, on the medium as `akene/lock.json`. It may be missing, but on a medium with a
//! manifest ([`medium::stick`]), which holds everything.
//!
//! A document that the site key of the stamp did not sign is refused whatever way it came; TLS only
//! decides whom we tell our token. A profile found on `AKENE_BOOT` is never a source by itself: it
//! lies there for the record.
//!
//! Errors carry an [`Issue`]. Those that may pass ([`is_transient`]) are tried again by
//! [`patiently`]; a refusal (4xx) is final.

pub mod http;
pub mod known;
mod lock;
pub mod medium;
pub mod mint;
mod patience;
mod server;

use akene_protocol::api::{Consent, Grant, Identity};
use akene_protocol::envelope::{Document, Envelope, EnvelopeError, PublicKey};
use akene_protocol::stamp::{Source, Stamp};
use akene_protocol::{Bundle, Inventory, Issue, MachineId, OrderId, RunId};
use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::report::Reporter;
use http::{Http, Method, Request};
pub use lock::{SignedLock, read_lock};
pub use patience::{Patience, is_settling, is_transient, patiently};
pub use server::{Asked, EventRoute, Server};

/// Largest profile envelope that is read. Profiles carry files, but not films.
const LARGEST_PROFILE: usize = 32 << 20;

/// Permission to change disks, used up by [`Permission::allows`] taking it.
#[derive(Debug)]
pub struct Permission {
    consent: Consent,
    /// Who gave it, for a person.
    pub by: String,
}

impl Permission {
    /// A permission that something other than a server's grant gives: the stamp, or the person who
    /// typed the command.
    pub fn given(consent: Consent, by: impl Into<String>) -> Self {
        Permission { consent, by: by.into() }
    }

    /// How much may be destroyed.
    pub fn consent(&self) -> Consent {
        self.consent
    }

    /// Uses the permission up for a plan that needs this much.
    ///
    /// # Errors
    /// An [`Issue`] that lists what would be lost.
    pub fn allows(self, plan: &akene_planner::Plan) -> Result<Allowed, Issue> {
        if self.consent != Consent::None && plan.needs <= self.consent {
            return Ok(Allowed(self.consent));
        }
        let lost: Vec<String> = plan.destroys.iter().map(|d| format!("{} on {}", d.what, d.name)).collect();
        let (code, message) = match self.consent {
            Consent::None => ("no-consent", format!("{} allows nothing on the disks", self.by)),
            _ => (
                "consent-needed",
                format!(
                    "{} only allows the use of blank disks, but {} would be lost",
                    self.by,
                    lost.join(", ")
                ),
            ),
        };
        let next =
            "save what is needed from this computer, then order the installation with permission to wipe";
        Err(Issue::new(code, "", message, next))
    }
}

/// Proof that a plan is permitted. Only [`Permission::allows`] makes one.
#[derive(Debug)]
pub struct Allowed(Consent);

impl Allowed {
    /// How much may be destroyed.
    pub fn consent(&self) -> Consent {
        self.0
    }
}

/// What a run is told to do.
#[derive(Debug)]
pub struct Orders {
    /// The profile with its classes.
    pub bundle: Bundle,
    /// The same, signed: it is kept on the machine. A profile that a person gave by hand has no signature.
    pub envelope: Option<Envelope>,
    /// Permission, or why there is none.
    pub permission: Result<Permission, Issue>,
}

/// The site a machine belongs to: its stamp and the ways to reach it.
pub struct Site<'a> {
    /// The stamp.
    pub stamp: &'a Stamp,
    /// HTTP, with the stamp's trust for the source's URL.
    pub http: &'a dyn Http,
}

impl Site<'_> {
    /// Who this machine is. `known` is what its disks say.
    pub fn identify(
        &self,
        known: Option<Identity>,
        inventory: &Inventory,
        reporter: &Reporter,
    ) -> Result<Identity> {
        let identity = match &self.stamp.source {
            Source::Server { token: None, .. } => known.ok_or_else(nobody)?,
            Source::Server { url, token: Some(token), .. } => {
                reporter.hide(token);
                let server = Server::new(self.http, url);
                let answer = server.enrol(token, known, inventory)?;
                let how = match answer.recognised {
                    akene_protocol::api::Recognised::New => "is new to the server",
                    akene_protocol::api::Recognised::Same => "is known to the server",
                    akene_protocol::api::Recognised::Ask => {
                        "may be one the server knows; a person there has to decide"
                    }
                };
                reporter.info(format!("this computer {how}"));
                answer.identity
            }
            Source::Static { .. } | Source::Medium { .. } => match known {
                Some(known) => known,
                None => mint::identity()?,
            },
        };
        reporter.hide(&identity.credential);
        reporter.called(identity.asset);
        Ok(identity)
    }

    /// What to do with this machine, verified. `order` is the one it was restarted for; `medium` is asked for the profile, and
    /// its place for people, where it lies there.
    pub fn orders(
        &self,
        identity: &Identity,
        inventory: &Inventory,
        profile: Option<&str>,
        order: Option<OrderId>,
        reporter: &Reporter,
        medium: &dyn Fn() -> Result<(Vec<u8>, String)>,
    ) -> Result<Orders> {
        let key = &self.stamp.site_key;
        match &self.stamp.source {
            Source::Server { url, .. } => {
                let server = Server::new(self.http, url);
                let run = reporter.run();
                let answer = server.run(identity, run, inventory, profile, order)?;
                let permission = match answer.grant {
                    Some(grant) => open::<Grant>(&grant, key, "grant", url).and_then(|grant| {
                        check_grant(&grant, identity.machine, run, Timestamp::now())?;
                        Ok(Permission::given(grant.consent, "the server"))
                    }),
                    None => Err(answer.refusal.unwrap_or_else(no_grant)),
                };
                Ok(Orders {
                    bundle: open(&answer.profile, key, "profile", url)?,
                    envelope: Some(answer.profile),
                    permission,
                })
            }
            Source::Static { url, consent, .. } => {
                let request = Request::new(Method::Get, url, LARGEST_PROFILE);
                let answer = self.http.send(&request)?.success(url)?;
                self.signed(&answer.body, *consent, url)
            }
            Source::Medium { consent, .. } => {
                let (text, place) = medium().context("reading the profile on the medium")?;
                self.signed(&text, *consent, &place)
            }
        }
    }

    fn signed(&self, text: &[u8], consent: Consent, place: &str) -> Result<Orders> {
        let envelope = Envelope::parse(text).map_err(|e| refused(&e, "profile", place))?;
        let bundle = open(&envelope, &self.stamp.site_key, "profile", place)?;
        let permission = match consent {
            Consent::None => Err(Issue::new(
                "no-grant",
                "",
                "this medium is stamped for looking and planning only",
                "stamp it with the consent `blank` or `wipe` to install from it",
            )),
            consent => Ok(Permission::given(consent, "the stamp of this medium")),
        };
        Ok(Orders { bundle, envelope: Some(envelope), permission })
    }
}

fn nobody() -> Issue {
    Issue::new(
        "no-identity",
        "",
        "the stamp of this installer has no token to make computers known with, and the disks do not say which one this is",
        "start this computer from a medium of the site",
    )
}

fn no_grant() -> Issue {
    Issue::new(
        "no-grant",
        "",
        "the server did not give the permission to install this computer, and not the reason either",
        "order the installation at the server, then start this computer again",
    )
}

/// Verifies and reads a signed document.
pub(crate) fn open<D: Document>(
    envelope: &Envelope,
    key: &PublicKey,
    what: &str,
    place: &str,
) -> Result<D, Issue> {
    envelope.open(key).map_err(|e| refused(&e, what, place))
}

/// Parses, verifies and reads a signed document.
pub(crate) fn read_signed<D: Document>(
    text: &[u8],
    key: &PublicKey,
    what: &str,
    place: &str,
) -> Result<D, Issue> {
    open(&Envelope::parse(text).map_err(|e| refused(&e, what, place))?, key, what, place)
}

fn refused(error: &EnvelopeError, what: &str, place: &str) -> Issue {
    let (code, next) = match error {
        EnvelopeError::WrongSignature { .. } => (
            "signature-wrong",
            "stamp the medium with the key of this site (`akene-image stamp`), or find out who changed the document",
        ),
        EnvelopeError::Unreadable(_) => (
            "document-unreadable",
            "use a medium and a server of the same version of Akène, and check the site directory (`akene-server profile check`)",
        ),
        EnvelopeError::Malformed(_) | EnvelopeError::WrongType { .. } => {
            ("document-wrong", "check the address in the stamp: something else is there")
        }
    };
    Issue::new(code, place, format!("the {what} is refused: {error}"), next)
}

/// Whether a grant is for this machine, this run and now.
fn check_grant(grant: &Grant, machine: MachineId, run: RunId, now: Timestamp) -> Result<(), Issue> {
    let ask = "order the installation at the server again, then start this computer again";
    if grant.machine != machine {
        let message = format!("the permission is for the machine {}, this is {machine}", grant.machine);
        return Err(Issue::new("grant-other-machine", "", message, ask));
    }
    if grant.run != run {
        let message = format!("the permission is for the run {}, this is {run}", grant.run);
        return Err(Issue::new("grant-other-run", "", message, ask));
    }
    if grant.expires < now {
        let message =
            format!("the permission ended at {}, and this computer's clock says {now}", grant.expires);
        return Err(Issue::new("grant-expired", "", message, ask));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
