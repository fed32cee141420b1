// control-center/frontend/src/pages/: <Route path="/multimodal" element={<MultimodalDashboard />} />
// The dashboard comes through the relay of the backend, so it is a page of this very site.
import { useEffect, useState } from "react";

const PAGE = "/api/multimodal/dashboard/";

export default function MultimodalDashboard() {
  const [away, setAway] = useState("");

  useEffect(() => {
    let gone = false;
    let timer = 0;
    async function look() {
      const answer = await fetch(PAGE, { method: "HEAD", cache: "no-store" }).catch(() => null);
      if (gone) return;
      if (answer?.ok) {
        setAway("");
      } else {
        setAway("The image generator does not answer. It is tried again every few seconds.");
        timer = setTimeout(look, 5000);
      }
    }
    look();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, []);

  if (away) return <p role="alert">{away}</p>;
  return (
    <iframe
      src={PAGE}
      title="Images: what runs, what waits, what is wrong"
      style={{ width: "100%", height: "calc(100dvh - 4rem)", border: 0 }}
      allow="clipboard-write"
    />
  );
}
