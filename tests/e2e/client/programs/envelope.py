"""Seals and opens with the client's own libraries.

envelope.py seal PUBLIC SIGNING                  text in, message out
envelope.py open PRIVATE PASSPHRASE SENDER.PUB   message in, text out
"""

import base64
import json
import logging
import sys

from Crypto.Cipher import PKCS1_OAEP
from Crypto.Hash import SHA256
from Crypto.PublicKey import RSA
from nacl.secret import SecretBox
from nacl.signing import VerifyKey
from studio.ed25519_key_util import Ed25519KeyUtil
from studio.encrypted_payload_builder import EncryptedPayloadBuilder


def seal(text, public, signing):
    builder = EncryptedPayloadBuilder("a test's", public, signing)
    parts = builder._encrypt_str(text)
    payload = b",".join(parts)
    message = {
        "payload": payload.decode(),
        "signature": builder._sign_payload(payload).decode(),
        "fingerprint": builder.sender_fingerprint,
    }
    return json.dumps({"message": message})


def opened(text, private, passphrase, sender):
    message = json.loads(text)["message"]
    signature = base64.b64decode(message["signature"])
    key = Ed25519KeyUtil.parse_public_key_file(sender, logging.getLogger())
    VerifyKey(key).verify(message["payload"].encode(), signature)
    wrapped, box = map(base64.b64decode, message["payload"].split(","))
    with open(private) as file:
        rsa = RSA.import_key(file.read(), passphrase or None)
    return SecretBox(PKCS1_OAEP.new(rsa, hashAlgo=SHA256).decrypt(wrapped)).decrypt(box).decode()


command, *arguments = sys.argv[1:]
print({"seal": seal, "open": opened}[command](sys.stdin.read(), *arguments))
