// A replicated counter: a command is a number in JSON that is added, and the reply is the sum so far.
//
// A query is `null`, and its reply the sum. zraft runs this on every replica, with the same commands in the same order,
// and all must reach the same state: follow the state and the arguments alone. A trap, also that of abort(), ends the
// instance; to refuse a command, return an error.
//
// Who owns what: a function frees its arguments, and what it returns is freed for it. malloc does not fail here, since
// asking for more memory than the budget ends the instance.

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/backend.h"

// Names the format of the state in snapshots. Change it when an older snapshot would be misread.
static const char VERSION[] = "counter 1";

// What every query watches and every command changes: it fires the triggers of those who watch.
static const char VALUE[] = "value";

// Room for a number of 64 bits as text.
#define NUMBER_BYTES 32

static int64_t count = 0;

static backend_list_u8_t copy(const char *text, size_t length) {
    backend_list_u8_t list = {malloc(length), length};
    memcpy(list.ptr, text, length);
    return list;
}

static backend_list_u8_t encode(int64_t number) {
    char text[NUMBER_BYTES];
    return copy(text, (size_t)snprintf(text, sizeof text, "%" PRId64, number));
}

// Reads a whole number. Whatever a client sends must not trap.
static bool decode(const uint8_t *bytes, size_t length, int64_t *number) {
    char text[NUMBER_BYTES];
    if (length == 0 || length >= sizeof text || memchr(bytes, 0, length) != NULL) {
        return false;
    }
    memcpy(text, bytes, length);
    text[length] = 0;
    char *end;
    errno = 0;
    *number = strtoll(text, &end, 10);
    return errno == 0 && end == text + length;
}

// The list of keys that has VALUE in it alone.
static void only_value(types_list_key_t *keys) {
    backend_list_u8_t key = copy(VALUE, strlen(VALUE));
    keys->len = 1;
    keys->ptr = malloc(sizeof *keys->ptr);
    keys->ptr[0] = (types_key_t){key.ptr, key.len};
}

static void refuse(types_result_list_u8_string_t *reply, const char *reason) {
    reply->is_err = true;
    backend_string_dup(&reply->val.err, reason);
}

static void reply_count(types_result_list_u8_string_t *reply) {
    reply->is_err = false;
    reply->val.ok = encode(count);
}

static types_outcome_t apply(const types_command_t *command) {
    types_outcome_t outcome = {0};
    int64_t by, sum;
    if (!decode(command->data.ptr, command->data.len, &by)) {
        refuse(&outcome.reply, "malformed command: it must be a whole number");
    } else if (__builtin_add_overflow(count, by, &sum)) {
        refuse(&outcome.reply, "the counter is full");
    } else {
        count = sum;
        reply_count(&outcome.reply);
        only_value(&outcome.changed);
    }
    return outcome;
}

void exports_machine_version(backend_string_t *ret) {
    backend_string_dup(ret, VERSION);
}

bool exports_machine_init(backend_list_u8_t *config, backend_string_t *err) {
    bool is_empty = config->len == 0;
    backend_list_u8_free(config);
    if (!is_empty) {
        backend_string_dup(err, "the counter takes no config");
    }
    return is_empty;
}

void exports_machine_apply(exports_machine_list_command_t *commands, exports_machine_list_outcome_t *ret) {
    ret->len = commands->len;
    ret->ptr = malloc(commands->len * sizeof *ret->ptr);
    for (size_t i = 0; i < commands->len; i++) {
        ret->ptr[i] = apply(&commands->ptr[i]);
    }
    exports_machine_list_command_free(commands);
}

void exports_machine_query(backend_list_u8_t *request, exports_machine_answer_t *ret) {
    memset(ret, 0, sizeof *ret);
    if (request->len == 4 && memcmp(request->ptr, "null", 4) == 0) {
        reply_count(&ret->reply);
        only_value(&ret->watched);
    } else {
        refuse(&ret->reply, "malformed query: it must be null");
    }
    backend_list_u8_free(request);
}

void exports_machine_expire_session(uint64_t index, uint64_t time_ms, uint64_t session,
                                    exports_machine_list_key_t *ret) {
    // Nothing here belongs to a session.
    (void)index, (void)time_ms, (void)session;
    memset(ret, 0, sizeof *ret);
}

// A snapshot that is read: the state as text. Equal states must be written as equal bytes.
struct exports_machine_snapshot_reader_t {
    backend_list_u8_t text;
    size_t position;
};

exports_machine_own_snapshot_reader_t exports_machine_snapshot(void) {
    exports_machine_snapshot_reader_t *reader = malloc(sizeof *reader);
    *reader = (exports_machine_snapshot_reader_t){encode(count), 0};
    return exports_machine_snapshot_reader_new(reader);
}

bool exports_machine_method_snapshot_reader_next(exports_machine_borrow_snapshot_reader_t reader, uint32_t max_bytes,
                                                 backend_list_u8_t *ret) {
    size_t rest = reader->text.len - reader->position;
    size_t length = rest < max_bytes ? rest : max_bytes;
    if (length == 0) {
        return false;
    }
    *ret = copy((const char *)reader->text.ptr + reader->position, length);
    reader->position += length;
    return true;
}

void exports_machine_snapshot_reader_destructor(exports_machine_snapshot_reader_t *reader) {
    backend_list_u8_free(&reader->text);
    free(reader);
}

// A snapshot that is written: what has come of it.
struct exports_machine_snapshot_writer_t {
    uint8_t text[NUMBER_BYTES];
    size_t length;
};

bool exports_machine_restore(exports_machine_origin_t *origin, exports_machine_own_snapshot_writer_t *ret,
                             backend_string_t *err) {
    bool is_known = origin->version.len == strlen(VERSION) && memcmp(origin->version.ptr, VERSION, strlen(VERSION)) == 0;
    exports_machine_origin_free(origin);
    if (!is_known) {
        backend_string_dup(err, "the snapshot's format is another than this backend reads");
        return false;
    }
    *ret = exports_machine_snapshot_writer_new(calloc(1, sizeof(exports_machine_snapshot_writer_t)));
    return true;
}

bool exports_machine_method_snapshot_writer_write(exports_machine_borrow_snapshot_writer_t writer,
                                                  backend_list_u8_t *chunk, backend_string_t *err) {
    bool fits = chunk->len <= sizeof writer->text - writer->length;
    if (fits) {
        memcpy(writer->text + writer->length, chunk->ptr, chunk->len);
        writer->length += chunk->len;
    } else {
        backend_string_dup(err, "the snapshot is too long");
    }
    backend_list_u8_free(chunk);
    return fits;
}

bool exports_machine_static_snapshot_writer_finish(exports_machine_own_snapshot_writer_t own, backend_string_t *err) {
    exports_machine_snapshot_writer_t *writer = exports_machine_snapshot_writer_rep(own);
    bool is_number = decode(writer->text, writer->length, &count);
    exports_machine_snapshot_writer_drop_own(own);
    if (!is_number) {
        backend_string_dup(err, "the snapshot is no number");
    }
    return is_number;
}

void exports_machine_snapshot_writer_destructor(exports_machine_snapshot_writer_t *writer) {
    free(writer);
}
