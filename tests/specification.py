"""Sections 7 and 8 of the interface once more, from their text alone: nothing here is the project's own code."""

import base64

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, json_format, message_factory, timestamp_pb2
from google.protobuf import wrappers_pb2 as wrappers
from nacl.bindings import crypto_secretbox_open

PACKAGE = "dev.studio_go_runner.reports"
STRING, TIMESTAMP, ANY = ".google.protobuf.StringValue", ".google.protobuf.Timestamp", ".google.protobuf.Any"

MESSAGES = {
    "Report": [("time", 1, TIMESTAMP), ("experiment_id", 2, STRING), ("unique_id", 3, STRING),
               ("executor_id", 4, STRING), ("proto_any", 10, ANY), ("text", 11, STRING),
               ("logging", 12, f".{PACKAGE}.LogEntry"), ("progress", 13, f".{PACKAGE}.Progress")],
    "LogEntry": [("time", 1, TIMESTAMP), ("severity", 2, f".{PACKAGE}.LogSeverity"), ("message", 3, STRING),
                 ("fields", 4, f".{PACKAGE}.LogEntry.FieldsEntry")],
    "Progress": [("time", 1, TIMESTAMP), ("json", 2, STRING), ("state", 3, f".{PACKAGE}.TaskState"),
                 ("error", 4, f".{PACKAGE}.Progress.Error")],
}  # fmt: skip
ENUMS = {
    "LogSeverity": {
        "Default": 0,
        "Trace": 100,
        "Debug": 200,
        "Info": 300,
        "Warning": 400,
        "Error": 500,
        "Fatal": 600,
    },
    "TaskState": {"Prestart": 0, "Started": 1, "Stopping": 2, "Failed": 20, "Success": 21},
}
PAYLOADS = ("proto_any", "text", "logging", "progress")


def _report_class():
    """The protobuf class `Report`, made of the table."""
    file = descriptor_pb2.FileDescriptorProto(name="reports.proto", package=PACKAGE, syntax="proto3")
    file.dependency.extend(module.DESCRIPTOR.name for module in (timestamp_pb2, any_pb2, wrappers))
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    types = {name: file.message_type.add(name=name) for name in MESSAGES}
    for name, fields in MESSAGES.items():
        for field, number, kind in fields:
            _add(types[name], field, number, kind)
    types["Report"].oneof_decl.add(name="payload")
    for field in types["Report"].field:
        if field.name in PAYLOADS:
            field.oneof_index = 0
    types["LogEntry"].field[-1].label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    entry = types["LogEntry"].nested_type.add(name="FieldsEntry")
    entry.options.map_entry = True
    for number, field in enumerate(("key", "value"), 1):
        entry.field.add(name=field, number=number, type=9, label=1)
    error = types["Progress"].nested_type.add(name="Error")
    _add(error, "msg", 20, STRING)
    error.field.add(name="code", number=21, type=5, label=1)
    pool = descriptor_pool.DescriptorPool()
    for module in (timestamp_pb2, any_pb2, wrappers):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Report"))


def _add(message, field, number, kind):
    enum = kind.rpartition(".")[2] in ENUMS
    message.field.add(name=field, number=number, type=14 if enum else 11, type_name=kind, label=1)


Report = _report_class()


def parse(text):
    """A report by the rules of the proto3 JSON mapping; ParseError for anything that is not one to the letter."""
    return json_format.Parse(text, Report())


def new_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)


def private_pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)


def opened(sealed, key):
    """`b64 key,b64 data`: RSA-OAEP with SHA-256 of a session key, a NaCl SecretBox with its nonce in front."""
    wrapped, box = (base64.b64decode(part, validate=True) for part in sealed.decode("ascii").split(","))
    session = key.decrypt(wrapped, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    assert len(session) == 32
    return crypto_secretbox_open(box[24:], box[:24], session)
