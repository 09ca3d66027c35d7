//! An order: what the server asks of a machine that is installed.
//!
//! It travels as a signed [`Envelope`](crate::Envelope), names one machine, counts until it expires and is used
//! once: whoever carries it out remembers its [`OrderId`], and the server gives the permission to install that
//! a reinstall needs only once for it (see [`RunRequest::order`](crate::api::RunRequest::order)). A machine that
//! acts on one leaves it for the installer in `akene/order.json` on its boot partition.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::Document;
use crate::ids::{MachineId, Sha256, as_text, from_hex};
use crate::issue::Issue;

/// The version of [`Order`] this crate writes and reads.
pub const VERSION: u32 = 1;

/// Most times people may be allowed to postpone.
pub const MOST_POSTPONEMENTS: u32 = 50;

/// The longest warning and the longest pause an order may have, in seconds: a day.
pub const LONGEST_PAUSE: u32 = 24 * 3600;

/// One order: 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderId(pub [u8; 16]);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for OrderId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        from_hex(text, "the id of an order").map(OrderId)
    }
}

as_text!(OrderId, "OrderId", "^[0-9a-f]{32}$", "128 random bits, 32 hexadecimal digits.");

/// What the server asks of one machine, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Order {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// By this it is known, and remembered as used.
    pub id: OrderId,
    /// For this machine only.
    pub machine: MachineId,
    /// What to do.
    pub task: Task,
    /// When it was given.
    pub issued: Timestamp,
    /// Not to be begun later than this.
    pub expires: Timestamp,
}

impl Document for Order {
    const PAYLOAD_TYPE: &'static str = "application/vnd.akene.order+json; version=1";
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Task {
    /// Install the machine anew.
    Reinstall(Reinstall),
    /// Restart it.
    Reboot(Timing),
    /// Look at the machine and send what it is.
    Inventory(Plain),
    /// Send the logs of the last day and of the installation.
    Logs(Plain),
}

impl Task {
    /// The serialised form, without quotes.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Reinstall(_) => "reinstall",
            Task::Reboot(_) => "reboot",
            Task::Inventory(_) => "inventory",
            Task::Logs(_) => "logs",
        }
    }

    /// When it is to be done, where people could mind.
    pub fn timing(&self) -> Option<&Timing> {
        match self {
            Task::Reinstall(reinstall) => Some(&reinstall.timing),
            Task::Reboot(timing) => Some(timing),
            Task::Inventory(_) | Task::Logs(_) => None,
        }
    }
}

/// A task that needs no settings. Unknown fields are refused here, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plain {}

/// A reinstallation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Reinstall {
    /// The profile; without one the site's rules choose when the installer asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// SHA-256 of the signed lock, as the server gives it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Sha256>,
    /// What becomes of people's files.
    pub files: Files,
    /// Whether the old system may be gone before all packages are there, where they fit nowhere else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub streamed: bool,
    /// When, and what people may do about it.
    pub timing: Timing,
}

/// What becomes of people's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Files {
    /// They stay.
    #[default]
    Keep,
    /// They go with everything else on the disks the profile uses.
    Wipe,
}

/// When to interrupt people, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Timing {
    /// When to begin.
    pub when: When,
    /// Seconds between telling people who are logged in and beginning. Nobody is waited for where nobody is.
    pub warning: u32,
    /// How often people may put it off, at most [`MOST_POSTPONEMENTS`].
    pub postponements: u32,
    /// Seconds each time.
    pub pause: u32,
}

/// When to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// As soon as everything is ready.
    #[default]
    Now,
    /// Not before this time.
    At(Timestamp),
    /// When nobody uses the machine.
    Idle,
}

impl Order {
    /// Whether a verified order is one for this machine, now, and in order itself. What was used before only the
    /// caller knows.
    ///
    /// # Errors
    /// `document-version`, `order-odd`, `order-other-machine` or `order-expired`.
    pub fn check(&self, machine: MachineId, now: Timestamp) -> Result<(), Issue> {
        let refuse = |code: &str, message: String, next: &str| {
            Err(Issue::new(code, format!("order {}", self.id), message, next))
        };
        const AGAIN: &str = "give the order again: `akene-server order`";
        if self.version != VERSION {
            let message =
                format!("the order has version {}, this program reads version {VERSION}", self.version);
            return refuse(
                "document-version",
                message,
                "use a server and an agent of the same version of Akène",
            );
        }
        if self.machine != machine {
            let message = format!("the order is for the machine {}, this is {machine}", self.machine);
            return refuse("order-other-machine", message, AGAIN);
        }
        if let Some(what) = self.oddity() {
            return refuse("order-odd", what, AGAIN);
        }
        if self.expires < now {
            let message = format!("the order counted until {}, and it is {now}", self.expires);
            return refuse("order-expired", message, AGAIN);
        }
        Ok(())
    }

    /// What makes no sense in it, whoever reads it and whenever. The server asks before it signs.
    pub fn oddity(&self) -> Option<String> {
        if self.expires <= self.issued {
            return Some(format!("the order ends at {}, before it was given", self.expires));
        }
        let timing = self.task.timing()?;
        match timing.when {
            When::At(at) if at >= self.expires => {
                return Some(format!("the order begins at {at}, after it has expired"));
            }
            _ => {}
        }
        if timing.postponements > MOST_POSTPONEMENTS {
            return Some(format!(
                "people could postpone it {} times, {MOST_POSTPONEMENTS} is the most",
                timing.postponements
            ));
        }
        if timing.warning > LONGEST_PAUSE || timing.pause > LONGEST_PAUSE {
            return Some("its warning or its pause is longer than a day".to_owned());
        }
        None
    }
}

/// How far an order is, as its machine tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "state", deny_unknown_fields)]
pub enum Progress {
    /// It was verified, and waits for its time.
    Received {
        /// What it waits for, for people: `until nobody uses it`. May be empty.
        #[serde(default)]
        waits: String,
    },
    /// People put it off.
    Postponed {
        /// How often so far.
        times: u32,
        /// Until when.
        until: Timestamp,
    },
    /// It is being carried out; a reinstallation: the machine restarts into its installer.
    Begun,
    /// It was carried out. A reinstallation is done when the new system has confirmed itself, and not by this.
    Done,
    /// It was not and will not be carried out.
    Refused {
        /// Why.
        issue: Issue,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Consent, Grant};
    use crate::envelope::{Envelope, EnvelopeError, PublicKey};
    use crate::event::RunId;
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    fn timestamp() -> impl Strategy<Value = Timestamp> {
        (0..4_000_000_000i64).prop_map(|s| Timestamp::from_second(s).unwrap())
    }

    fn timing() -> impl Strategy<Value = Timing> {
        let when = prop_oneof![Just(When::Now), Just(When::Idle), timestamp().prop_map(When::At)];
        (when, any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(when, warning, postponements, pause)| {
            Timing {
                when,
                warning: warning % 90_000,
                postponements: postponements % 60,
                pause: pause % 90_000,
            }
        })
    }

    fn task() -> impl Strategy<Value = Task> {
        let reinstall = (
            proptest::option::of("[a-z]{1,8}"),
            any::<Option<[u8; 32]>>(),
            any::<bool>(),
            any::<bool>(),
            timing(),
        );
        prop_oneof![
            Just(Task::Inventory(Plain {})),
            Just(Task::Logs(Plain {})),
            timing().prop_map(Task::Reboot),
            reinstall.prop_map(|(profile, lock, wipe, streamed, timing)| {
                let files = if wipe { Files::Wipe } else { Files::Keep };
                Task::Reinstall(Reinstall { profile, lock: lock.map(Sha256), files, streamed, timing })
            }),
        ]
    }

    prop_compose! {
        fn order()(id: [u8; 16], machine: [u8; 16], task in task(), issued in timestamp(), expires in timestamp())
            -> Order
        {
            Order { version: VERSION, id: OrderId(id), machine: MachineId(machine), task, issued, expires }
        }
    }

    proptest! {
        #[test]
        fn what_was_signed_is_what_is_read(order in order(), seed: [u8; 32]) {
            let key = SigningKey::from_bytes(&seed);
            let envelope = Envelope::sign(&order, &key);
            let text = serde_json::to_vec(&envelope).unwrap();
            let public = PublicKey(key.verifying_key());
            prop_assert_eq!(Envelope::parse(&text).unwrap().open::<Order>(&public), Ok(order));
        }

        /// An order that is taken is for this machine, has not expired, begins before it ends, and bothers
        /// people within bounds.
        #[test]
        fn only_an_order_for_this_machine_and_time_is_taken(
            order in order(), other: [u8; 16], own: bool, now in timestamp()
        ) {
            let machine = if own { order.machine } else { MachineId(other) };
            let taken = order.check(machine, now).is_ok();
            let in_time = order.issued < order.expires && now <= order.expires;
            let timing = order.task.timing().copied().unwrap_or_default();
            let begins = !matches!(timing.when, When::At(at) if at >= order.expires);
            let bounded = timing.postponements <= 50 && timing.warning <= 86_400 && timing.pause <= 86_400;
            prop_assert_eq!(taken, machine == order.machine && in_time && begins && bounded);
        }
    }

    #[test]
    fn each_refusal_has_a_name_of_its_own() {
        let time = |s| Timestamp::from_second(s).unwrap();
        let good = Order {
            version: VERSION,
            id: OrderId([1; 16]),
            machine: MachineId([2; 16]),
            task: Task::Reboot(Timing::default()),
            issued: time(100),
            expires: time(200),
        };
        let code = |order: Order| order.check(MachineId([2; 16]), time(150)).err().map(|i| i.code);
        assert_eq!(code(good.clone()), None);
        assert_eq!(code(Order { version: 2, ..good.clone() }).as_deref(), Some("document-version"));
        let foreign = Order { machine: MachineId([3; 16]), ..good.clone() };
        assert_eq!(code(foreign).as_deref(), Some("order-other-machine"));
        assert_eq!(code(Order { expires: time(149), ..good.clone() }).as_deref(), Some("order-expired"));
        assert_eq!(code(Order { expires: time(99), ..good }).as_deref(), Some("order-odd"));
    }

    #[test]
    fn another_signed_document_never_passes_as_an_order() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = PublicKey(key.verifying_key());
        let grant = Grant {
            machine: MachineId([1; 16]),
            run: RunId([1; 8]),
            consent: Consent::Wipe,
            expires: Timestamp::UNIX_EPOCH,
        };
        let signed = Envelope::sign(&grant, &key);
        assert!(matches!(signed.open::<Order>(&public), Err(EnvelopeError::WrongType { .. })));
    }

    #[test]
    fn unknown_fields_are_refused_at_every_level() {
        let order = Order {
            version: VERSION,
            id: OrderId([1; 16]),
            machine: MachineId([2; 16]),
            task: Task::Reinstall(Reinstall::default()),
            issued: Timestamp::UNIX_EPOCH,
            expires: Timestamp::MAX,
        };
        let text = serde_json::to_string(&order).unwrap();
        assert!(serde_json::from_str::<Order>(&text).is_ok());
        for place in ["\"version\":", "\"files\":", "\"when\":"] {
            let more = text.replacen(place, &format!("\"surprise\":1,{place}"), 1);
            assert!(serde_json::from_str::<Order>(&more).is_err(), "{more}");
        }
        let logs = r#"{"type":"logs","surprise":1}"#;
        assert!(serde_json::from_str::<Task>(logs).is_err());
    }
}
