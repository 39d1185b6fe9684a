//! The admin API and the Prometheus endpoint: HTTP over a Unix socket and TCP.

use crate::ask::{Answer, Question};
use crate::fleet_metrics::{Source, owners, peer_state};
use crate::history::History;
use crate::life::Life;
use crate::local::Local;
use crate::members::{Handle, Roster};
use crate::metrics::Metrics;
use crate::plane::{Dispatcher, Plane, flows};
use crate::{doctor, explain, what_if};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dts_config::{Config, Unavailable};
use dts_core::fcb;
use dts_core::view::View;
use dts_membership::{FULL, Seen, Time, Wish, WishError};
use dts_owners::Plan;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries of a listing whose request names no limit.
const LIMIT: usize = 100;
/// Most flows of one answer.
const LIMIT_MAX: usize = 10_000;
/// How long a listing waits for busy workers.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the endpoints look at.
pub struct Api {
    /// When the daemon started.
    pub started: Instant,
    /// The data plane's counters and the view.
    pub source: Source,
    /// The data plane itself.
    pub plane: Arc<dyn Plane>,
    /// Where its answers arrive.
    pub dispatcher: Arc<Dispatcher>,
    /// The last handovers.
    pub history: Arc<History>,
    /// Who speaks with the other members, where anybody does.
    pub members: Option<Handle>,
    /// Who looks at the kernel's sockets.
    pub life: Arc<Life>,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// What this node knows, as other daemons may ask for it.
    pub local: Arc<Local>,
    /// What owners follow from beside the members.
    pub plan: Plan,
    /// The node's configuration.
    pub config: Config,
}

impl Api {
    /// Every member as seen from here; `None` where this node does not take part in the
    /// membership, or the daemon is stopping.
    pub(crate) async fn roster(&self) -> Option<Roster> {
        self.members.as_ref()?.look().await
    }

    /// Asks another node's daemon.
    pub(crate) async fn ask(&self, node: u16, question: &Question) -> Result<Answer, WishError> {
        let Some(members) = &self.members else {
            return Err(WishError::NotThere);
        };
        let answer = members.ask(node, question.encode()).await?;
        Ok(Answer::decode(&answer))
    }
}

/// The answer where [`Api::roster`] has none.
pub(crate) fn unavailable() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, ALONE).into_response()
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

impl Limit {
    fn get(&self) -> usize {
        self.limit.unwrap_or(LIMIT).min(LIMIT_MAX)
    }
}

/// The endpoints of the admin socket.
pub fn admin(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/flows", get(list_flows))
        .route("/v1/handovers", get(handovers))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{id}/{wish}", post(wish))
        .route("/v1/explain", get(explain::get))
        .route("/v1/what-if", get(what_if::get))
        .route("/v1/doctor", get(doctor::get))
        .route("/v1/sockets/look", post(look))
        .with_state(api)
}

/// The endpoint that Prometheus reads.
pub fn metrics(api: Arc<Api>) -> Router {
    Router::new().route("/metrics", get(text)).with_state(api)
}

async fn text(State(api): State<Arc<Api>>) -> Response {
    match api.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

/// Lets the daemon look at the kernel's sockets now; it does so by itself every
/// `timeouts.socket_check_s`.
async fn look(State(api): State<Arc<Api>>) -> StatusCode {
    api.life.look_now();
    StatusCode::ACCEPTED
}

async fn handovers(State(api): State<Arc<Api>>, Query(limit): Query<Limit>) -> Response {
    Json(api.history.newest(limit.get())).into_response()
}

/// A node that does not take part in the membership: its link address is not there.
const ALONE: &str = "this node has no link address to speak from, or is stopping";

async fn nodes(State(api): State<Arc<Api>>) -> Response {
    let Some(roster) = api.roster().await else {
        return unavailable();
    };
    let Roster {
        members,
        agreed,
        schedule,
        superseded,
        now,
    } = roster;
    let node = |m: &Seen| {
        let mut of = member_json(m, now);
        of["on_wire"] = json!(agreed.part(m.peer.node).map(|p| p.on_wire));
        of["share"] = json!(f64::from(schedule.factor(m.peer.node)) / f64::from(FULL));
        of
    };
    let view = (api.source)().map(|s| s.view);
    let services = view.iter().flat_map(|v| &v.services);
    let services = services.map(|s| {
        json!({
            "name": s.name,
            "owners": owners(s),
            "unavailable": if s.refuses { Unavailable::Rst } else { Unavailable::Drop }.as_str(),
        })
    });
    Json(json!({
        "minority": agreed.minority,
        "superseded": superseded,
        "scheduler": agreed.scheduler(),
        "schedule": {
            "term": schedule.stamp.term,
            "counter": schedule.stamp.counter,
            "by": schedule.stamp.scheduler,
        },
        "services": services.collect::<Vec<_>>(),
        "nodes": members.iter().map(node).collect::<Vec<_>>(),
    }))
    .into_response()
}

/// A member as `/v1/nodes` shows it.
fn member_json(m: &Seen, now: Time) -> Value {
    let r = m.record;
    json!({
        "id": m.peer.node,
        "link": m.peer.link,
        "member": m.liveness.name(),
        "since_ms": now.saturating_sub(m.since).as_millis() as u64,
        "gone": m.gone,
        "generation": m.generation,
        "incarnation": r.map(|r| r.incarnation),
        "state": r.map(|r| r.state.name()),
        "drained": r.map(|r| r.drained),
        "weight": r.map(|r| r.weight),
        "connections": r.map(|r| r.load),
        "health": r.map(|r| format!("{:016x}", r.health)),
        "link_mac": r.map(|r| dts_config::MacAddr(r.link_mac).to_string()),
        "tcp": r.map(|r| json!({
            "timestamps": r.tcp.timestamps,
            "sack": r.tcp.sack,
            "window_shift": r.tcp.window_shift,
        })),
        "version": r.map(|r| r.version.to_string()),
        "config": r.map(|r| format!("{:016x}", r.config)),
        "epoch": r.map(|r| format!("{:016x}", r.epoch)),
    })
}

#[derive(Deserialize)]
struct Weight {
    value: Option<u8>,
}

/// Asks a node to become something, whichever node it is.
async fn wish(
    State(api): State<Arc<Api>>,
    Path((id, name)): Path<(u16, String)>,
    Query(weight): Query<Weight>,
) -> Response {
    let wish = match (name.as_str(), weight.value) {
        ("drain", None) => Wish::Drain,
        ("undrain", None) => Wish::Activate,
        ("standby", None) => Wish::Standby,
        ("weight", Some(w @ 0..=100)) => Wish::Weight(w),
        ("weight", _) => {
            return (
                StatusCode::BAD_REQUEST,
                "a weight is a number from 0 to 100",
            )
                .into_response();
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let Some(members) = &api.members else {
        return (StatusCode::SERVICE_UNAVAILABLE, ALONE).into_response();
    };
    match members.wish(id, wish).await {
        Ok(()) => Json(json!({ "node": id })).into_response(),
        Err(error) => {
            let status = match error {
                WishError::NoSuchNode => StatusCode::NOT_FOUND,
                WishError::NotThere => StatusCode::CONFLICT,
                WishError::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
            };
            (status, format!("node {id}: {error}")).into_response()
        }
    }
}

#[derive(Serialize)]
struct Flow {
    client: String,
    vip: String,
    state: &'static str,
    peer: Option<u16>,
    delta: u32,
    idle_ms: u64,
}

async fn list_flows(State(api): State<Arc<Api>>, Query(limit): Query<Limit>) -> Response {
    let ask = move || flows(&*api.plane, &api.dispatcher, limit.get(), PATIENCE);
    match tokio::task::spawn_blocking(ask).await {
        Ok(list) => {
            let flow = |f: dts_core::command::FlowInfo| Flow {
                client: f.client.to_string(),
                vip: f.vip.to_string(),
                state: f.state,
                peer: f.peer,
                delta: f.delta,
                idle_ms: f.idle.as_micros() / 1000,
            };
            Json(list.into_iter().map(flow).collect::<Vec<_>>()).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn status(State(api): State<Arc<Api>>) -> Response {
    let Some(sample) = (api.source)() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the data plane is not up").into_response();
    };
    let mut states = Map::new();
    for (i, state) in fcb::State::ALL.iter().enumerate() {
        let count: u64 = sample.workers.iter().map(|w| w.states[i]).sum();
        states.insert(state.name().to_owned(), count.into());
    }
    let view = &sample.view;
    Json(json!({
        "ready": true,
        "version": env!("CARGO_PKG_VERSION"),
        "node": view.node,
        "incarnation": view.incarnation,
        "uptime_s": api.started.elapsed().as_secs_f64(),
        "workers": sample.workers.iter().map(|w| json!({
            "worker": w.worker,
            "core": w.core,
            "flows": w.flows,
        })).collect::<Vec<_>>(),
        "ports": sample.ports.iter().zip(dts_core::frame::Port::ALL).map(|(p, port)| json!({
            "port": port.name(),
            "device": p.device,
            "driver": p.driver,
            "queues": p.queues,
            "offloads": p.offloads.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
            "up": p.up,
        })).collect::<Vec<_>>(),
        "services": view.services.iter().map(|s| service(s, view)).collect::<Vec<_>>(),
        "members": view.members.iter().map(|m| json!({
            "id": m.id,
            "link": m.link.ip(),
            "state": peer_state(m),
            "alive": m.alive,
            "known": m.known.is_some(),
            "incarnation": m.known.map(|k| k.1),
        })).collect::<Vec<_>>(),
        "flows": states,
    }))
    .into_response()
}

fn service(s: &dts_core::view::Service, view: &View) -> Value {
    let share = |m: &dts_core::view::Member| (m.id.to_string(), s.buckets.share(m.id).into());
    json!({
        "name": s.name,
        "vip": s.vip.ip(),
        "port": s.port,
        "proxy_port": s.proxy_port,
        "application_port": s.app_port,
        "buckets": view.members.iter().map(share).collect::<Map<String, Value>>(),
    })
}
