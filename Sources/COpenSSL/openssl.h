// OpenSSL 3 (libssl-dev), as far as SecureStream uses it.
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
