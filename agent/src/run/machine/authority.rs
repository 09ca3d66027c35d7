//! Who has the say over a machine: who makes it known, whose orders it takes, whom the installed system will ask.

use std::sync::Arc;

use akene_protocol::api::Identity;
use akene_protocol::stamp::{Source, Stamp};
use akene_protocol::{Inventory, PublicKey, Resolved};
use anyhow::{Context, Result};

use super::Machine;
use crate::fetch::http::Http;
use crate::fetch::{EventRoute, Orders, Server, SignedLock, Site, known, medium};
use crate::resident::Config;
use crate::run::left;
use crate::run::resume::Resume;

/// Who says what to install.
pub enum Authority<'a> {
    /// The site of a stamp.
    Site {
        /// The stamp.
        stamp: &'a Stamp,
        /// HTTP with the stamp's trust.
        http: Arc<dyn Http>,
        /// Profile to ask for.
        profile: Option<String>,
        /// What an installation that broke off left. It counts where the profile came from a medium that is no longer there,
        /// and is forgotten where orders came from the site.
        begun: Option<Box<Resume>>,
    },
    /// The person who typed the command.
    Person {
        /// Gives the orders once.
        orders: Option<Box<Orders>>,
        /// Who the machine is.
        identity: Identity,
        /// A signed lock they gave.
        lock: Option<Box<SignedLock>>,
    },
    /// An installation that was begun and never completed: nobody else is asked.
    Begun {
        /// What it left.
        resume: Box<Resume>,
        /// The key its profile must be signed with.
        key: PublicKey,
        /// Whether a person said that these are its disks. Otherwise they are compared.
        vouched: bool,
        /// The stamp, where there is one, for the resident agent.
        stamp: Option<&'a Stamp>,
        /// A way by which the server hears of it, should it answer again.
        http: Option<Arc<dyn Http>>,
    },
}

impl Machine<'_> {
    /// Who the machine is, from whoever has the say.
    pub(super) fn ask_identity(&mut self, inventory: &Inventory) -> Result<Identity> {
        Ok(match &self.authority {
            Authority::Site { stamp, http, .. } => {
                let known = known::identity(inventory, self.reporter);
                if let Some(offline) = &mut self.offline {
                    return offline.identify(known, inventory, stamp, self.reporter);
                }
                let site = Site { stamp, http: &**http };
                let identity = site.identify(known, inventory, self.reporter)?;
                if let (Source::Server { url, .. }, Some(courier)) = (&stamp.source, self.reporter.courier())
                {
                    let route =
                        EventRoute { http: http.clone(), url: url.clone(), identity: identity.clone() };
                    courier.route(route);
                    self.sent = left::send(inventory, &identity, &Server::new(&**http, url), self.reporter);
                }
                identity
            }
            Authority::Person { identity, .. } => {
                self.reporter.hide(&identity.credential);
                self.reporter.called(identity.asset);
                identity.clone()
            }
            Authority::Begun { resume, stamp, http, .. } => {
                let identity = resume.identity.clone();
                self.reporter.hide(&identity.credential);
                self.reporter.called(identity.asset);
                if let (Some(stamp), Some(http), Some(courier)) = (stamp, http, self.reporter.courier())
                    && let Source::Server { url, .. } = &stamp.source
                {
                    let (http, url) = (http.clone(), url.clone());
                    courier.route(EventRoute { http, url, identity: identity.clone() });
                }
                identity
            }
        })
    }

    /// What to do, from whoever has the say.
    pub(super) fn ask_orders(&mut self, identity: &Identity, inventory: &Inventory) -> Result<Orders> {
        let wanted = match &self.authority {
            Authority::Site { stamp, profile, .. } => profile.clone().or_else(|| stamp.profile.clone()),
            _ => None,
        };
        let on_stick = match &self.authority {
            Authority::Site { .. } => self.profile_offline(wanted.as_deref())?,
            _ => None,
        };
        match &mut self.authority {
            Authority::Site { stamp, http, begun, .. } => {
                let site = Site { stamp, http: &**http };
                let runner = self.runner;
                let order = known::order(inventory, identity.machine, &stamp.site_key, self.reporter);
                let medium = || match &on_stick {
                    Some(found) => Ok(found.clone()),
                    None => Ok((medium::profile(runner)?, "akene/profile.json on the medium".to_owned())),
                };
                let orders =
                    site.orders(identity, inventory, wanted.as_deref(), order, self.reporter, &medium);
                match (orders, &begun) {
                    (Err(error), Some(resume)) if medium::is_missing(&error) => {
                        self.reporter.info(format!(
                            "{error:#}; the installation that broke off had one, which counts"
                        ));
                        resume.orders(&stamp.site_key, inventory)
                    }
                    (orders, _) => {
                        *begun = begun.take().filter(|_| orders.is_err());
                        orders
                    }
                }
            }
            Authority::Person { orders, .. } => {
                orders.take().map(|orders| *orders).context("taking orders a second time")
            }
            Authority::Begun { resume, key, vouched, .. } => {
                self.reporter
                    .info("going on with the installation that broke off, with what lies on this computer");
                let mut orders = resume.orders(key, inventory)?;
                if *vouched {
                    orders.permission = Ok(resume.permission());
                }
                Ok(orders)
            }
        }
    }

    /// Settings of the resident agent; with a person as the only authority there is nobody to tell.
    pub(super) fn resident_config(&self, resolved: &Resolved) -> Result<String> {
        let run = self.reporter.run();
        let proxy = resolved.network.proxy.as_deref();
        let config = match &self.authority {
            Authority::Site { stamp, .. } | Authority::Begun { stamp: Some(stamp), .. } => {
                Config { offline: self.sender().is_some(), ..Config::from_stamp(stamp, proxy, run) }
            }
            Authority::Person { .. } | Authority::Begun { stamp: None, .. } => Config {
                site: String::new(),
                site_key: None,
                server: None,
                proxy: proxy.map(str::to_owned),
                run,
                offline: false,
            },
        };
        let text = crate::run::json(&config, "the settings of the resident agent")?;
        String::from_utf8(text).context("writing the settings of the resident agent")
    }
}
