//! What turns text into tokens and back: tokenizer.json, the chat template and the special tokens of a directory, as one JSON object.
//!
//! ```text
//! { "tokenizer": {..}, "chat_template": "..", "bos_token": "..", "eos_token": "..", "stop": [2], "add_bos": false }
//! ```
//!
//! All but `tokenizer` and `stop` may be absent.

use super::config::Json;
use crate::Source;
use crate::error::{ImportError, ImportErrorKind, read_error};
use lockstep_graph::Origin;
use serde_json::{Map, json};

/// The object as text; `None` without a tokenizer.json.
pub(super) fn read(source: &dyn Source, files: &[String], config: &Json) -> Result<Option<String>, ImportError> {
    let file = |name: &str| -> Result<Option<Json>, ImportError> {
        if !files.iter().any(|file| file == name) {
            return Ok(None);
        }
        let bytes = source.read(name).map_err(|error| read_error(name, &error))?;
        let parsed = serde_json::from_slice(&bytes);
        parsed
            .map(Some)
            .map_err(|error| ImportError::new(ImportErrorKind::Malformed(error.to_string()), Origin::file(name)))
    };
    let Some(tokenizer) = file("tokenizer.json")? else {
        return Ok(None);
    };
    let settings = file("tokenizer_config.json")?.unwrap_or_default();
    let generation = file("generation_config.json")?.unwrap_or_default();
    let mut out = Map::new();
    const TEMPLATE: &str = "chat_template.jinja";
    let template = match files.iter().any(|file| file == TEMPLATE) {
        true => {
            let bytes = source.read(TEMPLATE).map_err(|error| read_error(TEMPLATE, &error))?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        false => settings.get("chat_template").and_then(Json::as_str).map(str::to_owned),
    };
    if let Some(template) = template {
        out.insert("chat_template".into(), json!(template));
    }
    for key in ["bos_token", "eos_token"] {
        // A token is text, or an object with its content.
        let token = settings
            .get(key)
            .and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        if let Some(token) = token {
            out.insert(key.into(), json!(token));
        }
    }
    if let Some(add) = settings.get("add_bos_token").and_then(Json::as_bool) {
        out.insert("add_bos".into(), json!(add));
    }
    let ids = |json: &Json| -> Vec<u64> {
        match json.get("eos_token_id") {
            Some(Json::Array(all)) => all.iter().filter_map(Json::as_u64).collect(),
            Some(one) => one.as_u64().into_iter().collect(),
            None => Vec::new(),
        }
    };
    let mut stop = [ids(&generation), ids(config)].concat();
    stop.sort_unstable();
    stop.dedup();
    out.insert("stop".into(), json!(stop));
    out.insert("tokenizer".into(), tokenizer);
    Ok(Some(Json::Object(out).to_string()))
}
