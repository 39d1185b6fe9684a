//! The admin API and the Prometheus endpoint: HTTP over a Unix socket and TCP.

use crate::fleet_metrics::{Source, peer_state};
use crate::history::History;
use crate::life::Life;
use crate::metrics::Metrics;
use crate::peers::Heard;
use crate::plane::{Dispatcher, Plane, flows};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dts_core::fcb;
use dts_core::view::View;
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
    /// When members were heard.
    pub heard: Arc<Heard>,
    /// Who looks at the kernel's sockets.
    pub life: Arc<Life>,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
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
            "last_heard_ms": api.heard.silence(m.id).map(|d| d.as_millis() as u64),
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
