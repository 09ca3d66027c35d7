//! Who asks.

use std::net::SocketAddr;
use std::sync::Arc;

use akene_protocol::{Issue, MachineId, Secret, Sha256};
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::refusal::Refusal;
use super::{Shared, orders};
use crate::db::machines;
use crate::site::tokens::same_sum;

/// A machine that proved who it is.
#[derive(Debug)]
pub struct Machine {
    /// Who.
    pub id: MachineId,
    /// Sum of the credential it used.
    pub credential: String,
    /// From where.
    pub peer: String,
}

/// A machine that proved who it is and only asks for orders: nothing is written for it.
#[derive(Debug)]
pub struct Poller(pub MachineId);

/// The administrator.
#[derive(Debug)]
pub struct Admin;

/// The address a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let ConnectInfo(address) = ConnectInfo::<SocketAddr>::from_request_parts(parts, state)
            .await
            .map_err(|e| super::refusal::broken(&e.into()))?;
        Ok(Peer(address))
    }
}

impl Peer {
    /// The address for people and for the database.
    pub fn text(self) -> String {
        self.0.ip().to_canonical().to_string()
    }
}

/// The value of `Authorization` with this scheme.
fn authorization<'a>(parts: &'a Parts, scheme: &str) -> Option<&'a str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (found, rest) = value.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// What a machine shows.
fn shown(parts: &Parts) -> Option<(MachineId, Secret)> {
    let (machine, secret) = authorization(parts, "Bearer")?.split_once(':')?;
    Some((machine.parse().ok()?, Secret::new(secret)))
}

impl FromRequestParts<Arc<Shared>> for Poller {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let peer = Peer::from_request_parts(parts, shared).await?;
        if let Some((id, secret)) = shown(parts)
            && orders::known(shared, id, secret).await?
        {
            shared.board.visit(id, peer.text());
            return Ok(Poller(id));
        }
        Err(shared.limiter.refuse(peer.0.ip(), orders::stranger()).await)
    }
}

impl FromRequestParts<Arc<Shared>> for Machine {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let peer = Peer::from_request_parts(parts, shared).await?;
        let shown = shown(parts);
        if let Some((id, secret)) = shown {
            let credential = machines::sum(&secret);
            let text = peer.text();
            let right = shared
                .db
                .call(move |db| {
                    let right = machines::authenticate(db, id, &secret)?;
                    if right {
                        machines::seen(db, id, &text)?;
                    }
                    Ok(right)
                })
                .await?;
            if right {
                return Ok(Machine { id, credential, peer: peer.text() });
            }
        }
        Err(shared.limiter.refuse(peer.0.ip(), orders::stranger()).await)
    }
}

impl FromRequestParts<Arc<Shared>> for Admin {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        // Programs send the token as it is, browsers as the password of any user. Browsers add it to whatever
        // any page makes them ask for, so it opens what can be looked at and changes nothing.
        let basic = || {
            if !parts.method.is_safe() {
                return None;
            }
            let pair = String::from_utf8(BASE64.decode(authorization(parts, "Basic")?).ok()?).ok()?;
            pair.split_once(':').map(|(_, password)| password.to_owned())
        };
        let shown = authorization(parts, "Bearer").map(str::to_owned).or_else(basic);
        if shown.is_some_and(|text| same_sum(&Sha256::of(text.as_bytes()), &shared.admin)) {
            shared.board.look();
            return Ok(Admin);
        }
        let peer = Peer::from_request_parts(parts, shared).await?;
        let issue = Issue::new(
            "admin-token-refused",
            "",
            "this page is for the administrator",
            "the token is in secrets/admin-token of the site directory; a browser wants it as the password",
        );
        let mut refusal = shared.limiter.refuse(peer.0.ip(), issue).await;
        refusal.ask_password = true;
        Err(refusal)
    }
}
