//! Messages as JSON and back, driven by the descriptors that kelson is built from.
//!
//! Answers are compared at the level of the wire: the decoder shows what was really sent, so that an unknown field or
//! an explicitly sent zero is a difference too. Bytes become strings of one character per byte (U+0000 to U+00FF), so
//! that fixtures can be read.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::{Label, Type};
use serde_json::{Map, Value};

/// All message types and methods.
pub struct Schema {
    messages: BTreeMap<String, Vec<Field>>,
    /// "KV/Range" to the types of its request and its answer.
    methods: BTreeMap<String, (String, String)>,
}

struct Field {
    number: u32,
    name: String,
    kind: Type,
    repeated: bool,
    /// The type of a message field, with a leading dot.
    message: String,
}

impl Schema {
    /// Reads the descriptors.
    pub fn load() -> Self {
        let files = FileDescriptorSet::decode(kelson::proto::DESCRIPTORS).expect("build.rs wrote them");
        let mut schema = Self { messages: BTreeMap::new(), methods: BTreeMap::new() };
        for file in files.file {
            let package = format!(".{}", file.package());
            for message in &file.message_type {
                let fields = message.field.iter().map(|field| Field {
                    number: field.number() as u32,
                    name: field.name().to_owned(),
                    kind: field.r#type(),
                    repeated: field.label() == Label::Repeated,
                    message: field.type_name().to_owned(),
                });
                schema.messages.insert(format!("{package}.{}", message.name()), fields.collect());
            }
            for service in &file.service {
                for method in &service.method {
                    let types = (method.input_type().to_owned(), method.output_type().to_owned());
                    schema.methods.insert(format!("{}/{}", service.name(), method.name()), types);
                }
            }
        }
        schema
    }

    /// The JSON of a method's encoded request.
    pub fn request_json(&self, method: &str, bytes: &[u8]) -> Value {
        self.decode(&self.methods[method].0, bytes)
    }

    /// The encoded request of a method.
    pub fn request_bytes(&self, method: &str, message: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&self.methods[method].0, message, &mut out);
        out
    }

    /// The JSON of a method's encoded answer.
    pub fn answer_json(&self, method: &str, bytes: &[u8]) -> Value {
        self.decode(&self.methods[method].1, bytes)
    }

    fn decode(&self, message: &str, bytes: &[u8]) -> Value {
        self.try_decode(message, bytes).unwrap_or_else(|| Value::from(format!("malformed {message}: {}", text(bytes))))
    }

    fn try_decode(&self, message: &str, mut bytes: &[u8]) -> Option<Value> {
        let fields = self.messages.get(message)?;
        let mut object = Map::new();
        while bytes.has_remaining() {
            let key = decode_varint(&mut bytes).ok()?;
            let (number, wire_type) = ((key >> 3) as u32, key & 7);
            let field = fields.iter().find(|field| field.number == number);
            let values = match wire_type {
                0 => {
                    let int = decode_varint(&mut bytes).ok()?;
                    vec![field.map_or(Value::from(int), |field| field.scalar(int))]
                }
                2 => {
                    let len = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                    let (inner, rest) = bytes.split_at_checked(len)?;
                    bytes = rest;
                    self.delimited(field, inner)?
                }
                _ => return None,
            };
            match field {
                None => {
                    object.insert(format!("unknown field {number}"), Value::from(values));
                }
                Some(field) if field.repeated => {
                    let list = object.entry(field.name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                    list.as_array_mut()?.extend(values);
                }
                Some(field) => {
                    object.insert(field.name.clone(), values.into_iter().next()?);
                }
            }
        }
        Some(Value::Object(object))
    }

    fn delimited(&self, field: Option<&Field>, bytes: &[u8]) -> Option<Vec<Value>> {
        match field.map(|field| (field.kind, field)) {
            Some((Type::Message, field)) => Some(vec![self.try_decode(&field.message, bytes)?]),
            Some((Type::String, _)) => Some(vec![Value::from(std::str::from_utf8(bytes).ok()?)]),
            Some((Type::Bytes, _)) | None => Some(vec![Value::from(text(bytes))]),
            // Packed integers.
            Some((_, field)) => {
                let mut rest = bytes;
                let mut values = Vec::new();
                while rest.has_remaining() {
                    values.push(field.scalar(decode_varint(&mut rest).ok()?));
                }
                Some(values)
            }
        }
    }

    fn encode(&self, message: &str, value: &Value, out: &mut Vec<u8>) {
        let object = value.as_object().expect("a message is a JSON object");
        for field in &self.messages[message] {
            let Some(value) = object.get(&field.name) else { continue };
            for value in value.as_array().map_or(std::slice::from_ref(value), |list| &list[..]) {
                self.encode_field(field, value, out);
            }
        }
        let known = |name: &String| self.messages[message].iter().any(|field| field.name == *name);
        assert!(object.keys().all(known), "{message} has not all of these fields: {value}");
    }

    fn encode_field(&self, field: &Field, value: &Value, out: &mut Vec<u8>) {
        let mut delimited = |bytes: &[u8]| {
            encode_varint(u64::from(field.number << 3 | 2), out);
            encode_varint(bytes.len() as u64, out);
            out.put_slice(bytes);
        };
        match (field.kind, value) {
            (Type::Message, value) => {
                let mut inner = Vec::new();
                self.encode(&field.message, value, &mut inner);
                delimited(&inner);
            }
            (Type::String, Value::String(string)) => delimited(string.as_bytes()),
            (Type::Bytes, Value::String(string)) => delimited(&bytes(string)),
            (_, Value::Bool(bool)) => self.encode_int(field, u64::from(*bool), out),
            (_, Value::Number(number)) => {
                let int = number.as_u64().or(number.as_i64().map(|int| int as u64)).expect("no fractions");
                self.encode_int(field, int, out);
            }
            (kind, value) => panic!("{} is a {kind:?}, not {value}", field.name),
        }
    }

    fn encode_int(&self, field: &Field, int: u64, out: &mut Vec<u8>) {
        encode_varint(u64::from(field.number << 3), out);
        encode_varint(int, out);
    }
}

impl Field {
    fn scalar(&self, int: u64) -> Value {
        match self.kind {
            Type::Bool => Value::from(int != 0),
            Type::Int64 => Value::from(int as i64),
            Type::Int32 | Type::Enum => Value::from(int as i32),
            _ => Value::from(int),
        }
    }
}

/// Bytes as a string, one character per byte.
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The bytes of such a string.
pub fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(u32::from(char)).expect("one character per byte")).collect()
}
