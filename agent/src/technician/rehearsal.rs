//! The dialog without a run: everything a technician sees up to the last question, and nothing is done.

use akene_planner::Plan;
use akene_protocol::api::Consent;
use akene_protocol::{AssetNumber, Bundle, Inventory, Issue};
use anyhow::{Context, Result};

use crate::fetch::Permission;
use crate::run::technician::{Choice, DECLINED, LEFT, Next, Offer, Offered, Technician};

/// What is on offer.
pub struct Rehearsal {
    /// Name of the site.
    pub site: String,
    /// Associations to choose from.
    pub associations: Vec<String>,
    /// Profiles, as they are and as they are offered.
    pub profiles: Vec<(Bundle, Offered)>,
    /// The number the machine has already.
    pub known: Option<AssetNumber>,
    /// The machine.
    pub inventory: Inventory,
    /// What the medium allows.
    pub consent: Consent,
}

/// What a technician would have had done.
#[derive(Debug)]
pub struct Wish {
    /// The answers.
    pub choice: Choice,
    /// The plan they confirmed.
    pub plan: Plan,
    /// What they permitted.
    pub permission: Permission,
}

impl Rehearsal {
    /// Asks until the technician confirms a plan, or leaves (`None`).
    ///
    /// # Errors
    /// When there is nobody to ask.
    pub fn with(&self, technician: &mut dyn Technician) -> Result<Option<Wish>> {
        let profiles: Vec<Offered> = self.profiles.iter().map(|(_, offered)| offered.clone()).collect();
        let offer = Offer {
            site: &self.site,
            associations: &self.associations,
            profiles: &profiles,
            known: self.known,
            inventory: &self.inventory,
        };
        loop {
            let choice = match technician.choose(&offer) {
                Ok(choice) => choice,
                Err(error) if is(&error, LEFT) => return Ok(None),
                Err(error) => return Err(error),
            };
            match self.permitted(&choice, technician) {
                Ok((plan, permission)) => return Ok(Some(Wish { choice, plan, permission })),
                Err(error) if is(&error, LEFT) => return Ok(None),
                Err(error) if is(&error, DECLINED) => {}
                Err(error) => {
                    if technician.show(&crate::run::issues_of(&error)) == Next::Restart {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The plan for a choice, and the permission to carry it out.
    fn permitted(&self, choice: &Choice, technician: &mut dyn Technician) -> Result<(Plan, Permission)> {
        let chosen = self.profiles.iter().find(|(bundle, _)| bundle.name == choice.profile);
        let (bundle, _) = chosen.context("finding the profile that was chosen")?;
        let resolved = akene_protocol::resolve::resolve(bundle, &self.inventory, choice.asset)?;
        let plan = akene_planner::plan_within(&resolved.storage, &self.inventory, self.consent)?;
        let permission = technician.confirm(&plan, &self.inventory, &resolved, self.consent)?;
        Ok((plan, permission))
    }
}

fn is(error: &anyhow::Error, code: &str) -> bool {
    error.downcast_ref::<Issue>().is_some_and(|issue| issue.code == code)
}
