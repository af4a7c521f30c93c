/* Which chunks of the heap a start touches: at build time, to put these side by side. */
#ifndef PYKRUN_SURVEY_H
#define PYKRUN_SURVEY_H

/* Watch what is in the heap, a spread one (heap.h), from here on. 0, or -1 after a message. */
int survey_begin(void);

/* Write the chunks that were touched since, as heap_want() takes them. 0, or -1 after a message. */
int survey_write(const char *path);

#endif
